"""Processes that train together: start-up, and small messages between them."""

from __future__ import annotations

import importlib
import json
import logging
import os
import socket
import sys
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NoReturn

import torch
import torch.distributed as dist

from tspo_cli.console import warn
from tspo_cli.errors import MissingResourceError, TspoError, UsageError
from tspo_cli.variables import number_in, place_in_launcher

# Rollouts of one process may take much longer than those of another.
LONGEST_WAIT = timedelta(hours=1)
FIRST_WORD = 10.0
"""Seconds after which a process says for whom it waits."""
_ATTEMPT = 5.0
"""Seconds of one attempt to reach process 0."""
_STORE_PATIENCE = 20.0
"""Seconds in which what listens there answers as a store does."""
_HERE = "here"
_MOST_NAMED = 8


def init_distributed() -> str:
    """Join the process group that a launcher describes in the environment, or make a group of this
    process alone.

    Returns the device to train on. The backend is gloo on CPUs and NCCL on GPUs. DeepSpeed logs
    warnings and errors only, to stderr. Calling it again changes nothing.

    Raises:
        UsageError: WORLD_SIZE is above 1, but other variables of a launcher are missing; or one
            has a value that it cannot have.
        MissingResourceError: another program has the port of the launcher.
        TspoError: the other processes cannot be reached, or do not come.
    """
    gpu = torch.cuda.is_available()
    if not gpu:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    number, processes = place_in_launcher()
    alone = processes == 1
    if alone:  # DeepSpeed reads them
        os.environ["WORLD_SIZE"] = "1"
        os.environ["LOCAL_RANK"] = str(number_in("LOCAL_RANK", 0))
    missing = [
        name
        for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
        if not os.environ.get(name)
    ]
    if missing and not alone:
        raise UsageError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, but {', '.join(missing)} not set; use "
            "torchrun"
        )
    device = _own_gpu() if gpu else "cpu"
    deepspeed = quiet_deepspeed()
    backend = "nccl" if gpu else "gloo"
    if alone and not dist.is_initialized():
        # A store without a port: MASTER_PORT may belong to processes that this one starts.
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    elif not dist.is_initialized():
        _meet(backend, number, processes)
    deepspeed.init_distributed(dist_backend=backend, verbose=False)
    return device


def _own_gpu() -> str:
    local, found = number_in("LOCAL_RANK", 0), torch.cuda.device_count()
    if local >= found:
        raise UsageError(
            f"LOCAL_RANK: process {local} of this machine has no GPU of its own, as {found} can be "
            "seen (CUDA_VISIBLE_DEVICES); start no more processes here than there are GPUs"
        )
    torch.cuda.set_device(f"cuda:{local}")
    return f"cuda:{local}"


def _meet(backend: str, number: int, processes: int) -> None:
    """Wait for the other processes of the launcher, and say for whom.

    Raises:
        UsageError: the processes were given numbers that do not fit together.
        MissingResourceError: another program has the port of the launcher.
        TspoError: the other processes cannot be reached, or do not come.
    """
    place = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    wait = _Wait(place, number, processes)
    try:
        store = _launcher_store(wait)
        _wait_for_all(store, wait)
        dist.init_process_group(
            backend, store=store, rank=number, world_size=processes, timeout=LONGEST_WAIT
        )
    except dist.DistError as error:
        if "EADDRINUSE" in str(error):
            raise MissingResourceError(
                f"{place}: another program uses this port; start all processes with another "
                "MASTER_PORT"
            ) from None
        raise TspoError(
            f"{place}: process {number} of {processes} waited there for "
            f"the others in vain ({str(error).splitlines()[0]}); start all of them, with the "
            "address of process 0 as MASTER_ADDR"
        ) from None


class _Wait:
    """How long this process has waited for others, which it says after `FIRST_WORD` seconds and
    whenever the wait has doubled.
    """

    def __init__(self, place: str, number: int, processes: int) -> None:
        self.place, self.number, self.processes = place, number, processes
        self._began, self._next = time.monotonic(), FIRST_WORD

    @property
    def left(self) -> float:
        """Seconds until nobody is waited for any longer."""
        return self._began + LONGEST_WAIT.total_seconds() - time.monotonic()

    def is_due(self) -> bool:
        """True if it is time to say for whom this process waits; then not again for a while."""
        waited = time.monotonic() - self._began
        if waited < self._next:
            return False
        self._next = 2 * waited
        return True

    def say(self, missing: Sequence[int], reason: str = "") -> None:
        """Say that `missing` have not come, and the `reason` if it is known."""
        waited = time.monotonic() - self._began
        more = len(missing) - _MOST_NAMED
        names = ", ".join(map(str, missing[:_MOST_NAMED])) + (f" and {more} more" * (more > 0))
        why = f" ({reason})" if reason else ""
        warn(
            f"{self.place}: process {self.number} of {self.processes} has waited {waited:.0f} "
            f"seconds for process{'es' * (len(missing) > 1)} {names}{why}; "
            "start all of them, with the address of process 0 as MASTER_ADDR"
        )


def _launcher_store(wait: _Wait) -> dist.Store:
    """The store through which the processes meet: that of torchrun's agent, or of process 0. An
    agent's may outlive the processes: each attempt has names of its own.
    """
    host, port = os.environ["MASTER_ADDR"], number_in("MASTER_PORT", 0)
    has_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    is_host = wait.number == 0 and not has_agent
    if not is_host:
        _wait_for_host(host, port, wait)
    store = dist.TCPStore(
        host,
        port,
        is_master=is_host,
        wait_for_workers=False,
        timeout=timedelta(seconds=_STORE_PATIENCE),
        multi_tenant=is_host,
    )
    attempt = number_in("TORCHELASTIC_RESTART_COUNT", 0)
    return dist.PrefixStore(f"tspo/attempt_{attempt}", store)


def _wait_for_host(host: str, port: int, wait: _Wait) -> None:
    """Return when something listens there. The store itself would say frames of C++ meanwhile, and
    hear no signal.

    Raises:
        DistNetworkError: nothing does.
    """
    while True:
        try:
            socket.create_connection((host, port), timeout=_ATTEMPT).close()
            return
        except OSError as error:
            said = str(error.strerror or error)
        if wait.is_due():
            wait.say([0], said)
        if wait.left <= 0:
            raise dist.DistNetworkError(said)
        time.sleep(0.1)


def _wait_for_all(store: dist.Store, wait: _Wait) -> None:
    """Return when all processes have come to the store.

    Raises:
        UsageError: two have one number, or they were told of different numbers of processes.
        DistStoreError: they do not come.
    """
    store.set_timeout(LONGEST_WAIT)
    keys = [f"{_HERE}/{number}" for number in range(wait.processes)]
    size = int(store.compare_set(f"{_HERE}/processes", "", str(wait.processes)))
    if size != wait.processes:
        raise UsageError(
            f"WORLD_SIZE: {wait.processes} here, but another process at {wait.place} has {size}; "
            "give all processes the same number"
        )
    if store.add(keys[wait.number], 1) > 1:
        raise UsageError(
            f"RANK: another process at {wait.place} has {wait.number} too; give each process a "
            f"number of its own, from 0 to {wait.processes - 1}"
        )
    while not store.check(keys):
        if wait.is_due():
            has_come = [store.check([key]) for key in keys]
            if has_come.index(True) == wait.number:  # one says it
                wait.say([number for number, came in enumerate(has_come) if not came])
        if wait.left <= 0:
            raise dist.DistStoreError("they did not come")
        time.sleep(0.05)


def quiet_deepspeed() -> Any:
    """The deepspeed module, set to log warnings and errors only, to stderr."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="deepspeed")
    warnings.filterwarnings("ignore", category=FutureWarning, module="torch.distributed")
    deepspeed = importlib.import_module("deepspeed")
    logger = logging.getLogger("DeepSpeed")
    logger.setLevel(logging.WARNING)
    for handler in logger.handlers:
        # DeepSpeed's own handler, not a subclass that sends messages elsewhere.
        if type(handler) is logging.StreamHandler:
            handler.stream = sys.stderr
    # On CPUs DeepSpeed would compile a shared-memory operation that gloo does not need.
    backend: Any = importlib.import_module("deepspeed.comm.torch")
    backend.build_shm_op = lambda: None
    # Groups of its own would wait torch's default of ten minutes.
    backend.TorchBackend.new_group = lambda self, ranks: dist.new_group(ranks, timeout=LONGEST_WAIT)
    return deepspeed


def rank() -> int:
    """The rank of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


_waits = threading.Event()


@contextmanager
def _waiting() -> Iterator[None]:
    _waits.set()
    try:
        yield
    finally:
        _waits.clear()


def is_waiting() -> bool:
    """True while this process waits for the others in a function of this module."""
    return _waits.is_set()


def barrier() -> None:
    """Wait for all processes."""
    if world_size() > 1:
        with _waiting():
            dist.barrier()


def all_sum(values: Sequence[float]) -> list[float]:
    """Element-wise sums over all processes, in float64."""
    if world_size() == 1:
        return [float(value) for value in values]
    tensor = torch.tensor(list(values), dtype=torch.float64, device=_device())
    with _waiting():
        dist.all_reduce(tensor)
    return [float(value) for value in tensor.tolist()]


def all_max(value: float) -> float:
    """The largest value over all processes."""
    if world_size() == 1:
        return value
    tensor = torch.tensor([value], dtype=torch.float64, device=_device())
    with _waiting():
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return float(tensor.item())


def gather_json(value: Any) -> list[Any]:
    """The values of all processes by rank, on every process. They are sent as JSON, not as
    pickles.
    """
    if world_size() == 1:
        return [json.loads(json.dumps(value))]
    payload = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8).reshape(-1, 1)
    return [json.loads(part.numpy().tobytes()) for part in gather_table(payload)]


def gather_table(table: torch.Tensor) -> list[torch.Tensor]:
    """The tables [n, columns] of all processes by rank, in CPU memory. The number of rows may be
    another on each process.
    """
    if world_size() == 1:
        return [table]
    sizes = [torch.zeros(1, dtype=torch.int64, device=_device()) for _ in range(world_size())]
    with _waiting():
        dist.all_gather(sizes, torch.tensor([len(table)], dtype=torch.int64, device=_device()))
    lengths = [int(size) for size in sizes]
    padded = torch.zeros(max(lengths), table.shape[1], dtype=table.dtype, device=_device())
    padded[: len(table)] = table
    parts = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(parts, padded)
    return [part[:length].cpu() for part, length in zip(parts, lengths, strict=True)]


def broadcast_json(value: Any) -> Any:
    """The value of process 0, on every process."""
    return gather_json(value)[0]


def shared_store() -> dist.Store:
    """The store through which the processes met. It needs no collective: a process asks it at any
    time, also from another thread.
    """
    store: dist.Store = dist.distributed_c10d._get_default_store()
    return store


def shutdown() -> None:
    """Leave the process group. Without it, gloo's threads may abort the process when it ends."""
    if dist.is_initialized():
        dist.destroy_process_group()


def leave(code: int) -> NoReturn:
    """End this process, one of several, at once. Gloo's threads abort about one in twenty processes
    that end normally.
    """
    shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _device() -> torch.device:
    return (
        torch.device("cuda", torch.cuda.current_device())
        if dist.get_backend() == "nccl"
        else torch.device("cpu")
    )
