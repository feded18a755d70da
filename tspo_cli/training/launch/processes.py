"""Start a training run: claim its directory, then train in this process or in several."""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tspo_cli import stopping
from tspo_cli.config.load_config import read_resolved, write_resolved
from tspo_cli.config.schema import Config
from tspo_cli.console import say
from tspo_cli.cpu_threads import refuse_too_many
from tspo_cli.credit.user_code import is_user_code
from tspo_cli.disk import atomic_write_bytes
from tspo_cli.errors import InvalidInputError, TspoError
from tspo_cli.overwriting import require_outside
from tspo_cli.packages import require_packages
from tspo_cli.plain_files import named_like, read_plain
from tspo_cli.record_digests import DIGESTS_NAME
from tspo_cli.runs import (
    COMMAND_NAME,
    LOGS_NAME,
    checkpoint_folders,
    is_run,
    read_status,
    set_status,
    start_attempt,
    write_environment,
)
from tspo_cli.steady_folders import identity
from tspo_cli.training.launch.child_processes import PATIENCE, end_processes, pass_on
from tspo_cli.training.launch.claim import Claim, claimed_run, has_trained, is_complete
from tspo_cli.training.launch.same_experiment import check_same_experiment
from tspo_cli.variables import number_in

STOP_CODES = tuple(128 + number for number in (1, 2, 10, 15))
"""Exit codes after SIGHUP, SIGINT, SIGUSR1 and SIGTERM."""
STOP_PATIENCE = 20.0
"""Seconds that the other processes of a training have when one has stopped."""
START_PATIENCE = 1.0
"""The same before the training begins: a process that waits for the others hears no signal."""

Train = Callable[[Config, Path, int, bool], None]
"""(config, run, attempt, resume): train in this process."""


def launch(
    config: Config, run: Path, train: Train, worker_module: str, *, resume: bool, overwrite: bool
) -> None:
    """Train `config` into the directory `run` with config.train.processes processes.

    With one process, `train` is called here. With several, each is started as `python -m
    worker_module RUN ATTEMPT fresh|resume SETTINGS PID`, with the number of this process. Under
    torchrun or another launcher that sets RANK and WORLD_SIZE, this process is one of the
    launcher's processes.

    Raises:
        InvalidInputError: `run` is in use, belongs to another experiment than the one to resume,
            or holds what the run that overwrites it begins with. There are far more processes than
            CPU cores.
        MissingResourceError: a package that `config` needs is not installed.
        TspoError: a training process was killed.
        SystemExit: one was stopped, or failed and said why.
    """
    require_packages(config)
    if overwrite:
        _refuse_own_inputs(config, run)
    if number_in("WORLD_SIZE", 1) > 1:
        _join_launcher(config, run, train, resume=resume, overwrite=overwrite)
        return
    if config.train.processes > 1:
        refuse_too_many("train.processes", config.train.processes, "a model")
    with (
        claimed_run(run, resume=resume, overwrite=overwrite) as claim,
        _without_trace_of_refusal(run),
    ):
        attempt = _start(config, run, resume=resume)
        if attempt is None:
            return
        if config.train.processes == 1:
            train(config, run, attempt, resume)
        else:
            _spawn(claim, worker_module, config, attempt, resume=resume)


def _refuse_own_inputs(config: Config, run: Path) -> None:
    """Raises:
    InvalidInputError: something that the new run reads lies in the run that it would replace.
    """
    data, retriever, judge = config.data, config.retriever, config.judge
    require_outside(run, config.model.path, retriever.index, *data.train, data.world)
    require_outside(run, *data.demonstrations, *data.held_out, *config.eval.data)
    reranker = str(retriever.search.given().get("reranker", ""))
    require_outside(run, config.deepspeed.config, reranker, judge.prompt)
    require_outside(run, retriever.token_file, config.vllm.token_file)
    code = (config.credit.algorithm, config.credit.outcome)
    require_outside(run, *(spec.rpartition(":")[0] for spec in code if is_user_code(spec)))


@contextmanager
def _without_trace_of_refusal(run: Path) -> Iterator[None]:
    """An attempt to resume a run. One that ends before its first line in the log, such as one with
    other questions, leaves the records of the run as they were.
    """
    names = (COMMAND_NAME, DIGESTS_NAME) if is_run(run) and has_trained(run) else ()
    before = {name: read_plain(run / name) for name in names if (run / name).exists()}
    logs, place = named_like(run / LOGS_NAME, "*"), identity(run)
    try:
        yield
    except BaseException:
        if before and identity(run) == place and named_like(run / LOGS_NAME, "*") == logs:
            with suppress(OSError):  # the error that ended the attempt says more
                (run / DIGESTS_NAME).unlink(missing_ok=True)
                for name, content in before.items():  # the digests last
                    atomic_write_bytes(run / name, content)
        raise


def _start(config: Config, run: Path, *, resume: bool) -> int | None:
    """Write the command and, of a new run, configuration and environment; returns the number of
    this attempt, None where nothing is left to do. A run that is resumed keeps its own until its
    inputs have been compared.

    Raises:
        InvalidInputError: the run to resume holds another experiment, or has nothing to go on from.
    """
    if resume and is_run(run) and has_trained(run):
        check_same_experiment(read_resolved(run), config, run)
        if is_complete(config, run):
            say(f"{run}: finished already; nothing is left to do")
            return None
        if read_status(run)["state"] == "finished" and not checkpoint_folders(run):
            raise InvalidInputError(
                f"{run}: finished, and has no checkpoint to go on from; train anew with "
                "--overwrite or another --out"
            )
    else:
        write_resolved(config, run)
        write_environment(run)
    return start_attempt(run)


def _join_launcher(
    config: Config, run: Path, train: Train, *, resume: bool, overwrite: bool
) -> None:
    from tspo_cli.training.core.distributed import broadcast_json, init_distributed, rank, shutdown
    from tspo_cli.training.launch.lookout import failing_together
    from tspo_cli.training.launch.same_command import require_same_command, require_shared_folder

    init_distributed()
    try:
        with failing_together():
            require_same_command(config, resume=resume, overwrite=overwrite)
        with ExitStack() as claimed:
            attempt = None
            with failing_together():
                if rank() == 0:
                    claimed.enter_context(claimed_run(run, resume=resume, overwrite=overwrite))
                    claimed.enter_context(_without_trace_of_refusal(run))
                    attempt = _start(config, run, resume=resume)
            attempt = broadcast_json(attempt)
            if attempt is not None:
                with failing_together():
                    require_shared_folder(run)
                train(config, run, attempt, resume)
    finally:
        shutdown()


def _spawn(claim: Claim, module: str, config: Config, attempt: int, *, resume: bool) -> None:
    """Start one worker per process. They read the settings in a temporary folder. When one of them
    fails, the others are ended. They hold the lock too, and end when this process ends, however it
    ends.
    """
    from torch.distributed import TCPStore

    # This process hosts the store, as torchrun does: a free port that is looked up for a worker
    # could be taken before the worker binds it.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    rendezvous = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    place = identity(claim.path)
    settings = claim.path / ".settings.tmp"
    write_resolved(config, settings)
    command = [
        sys.executable,
        "-m",
        module,
        str(claim.path),
        str(attempt),
        "resume" if resume else "fresh",
        str(settings),
        str(os.getpid()),
    ]
    common = {"WORLD_SIZE": str(config.train.processes)} | rendezvous
    # Where this process is killed, its store is gone, of which torch warns with frames of C++.
    calm = {"TORCH_CPP_LOG_LEVEL": "ERROR"}

    def patience() -> float:
        has_begun = read_status(claim.path).get("attempt") == attempt
        return STOP_PATIENCE if has_begun else START_PATIENCE

    workers: list[subprocess.Popen[bytes]] = []
    code, number = None, 0
    try:
        with stopping.deferred():
            for rank in range(config.train.processes):
                own = {"RANK": str(rank), "LOCAL_RANK": str(rank)}
                environment = calm | os.environ | common | own
                workers.append(subprocess.Popen(command, env=environment, pass_fds=[claim.lock]))
            code, number = _wait(workers, patience)
    finally:
        end_processes(workers, min(PATIENCE, patience()))
        shutil.rmtree(settings, ignore_errors=True)
        was_stopped = code is None or code in STOP_CODES
        if identity(claim.path) == place:  # what stands there now may not be ours
            _correct_status(claim.path, attempt, "stopped" if was_stopped else "failed")
    if code < 0:
        raise TspoError(
            f"{claim.path}: process {number} of {len(workers)} was killed by "
            f"{signal.Signals(-code).name}, for example because memory ran out; --resume goes on"
        )
    if code:  # the process has said why
        raise SystemExit(code)


def _correct_status(run: Path, attempt: int, state: str) -> None:
    """Say how the run ended where its first process could not say it. A run that an attempt was to
    go on with, and did not begin to, stays as it was.
    """
    status = read_status(run)
    has_begun = status["attempt"] in (0, attempt)
    if has_begun and status["state"] not in ("finished", "failed", state):
        set_status(run, state, status["step"], attempt, status["warnings"])
    if (number := stopping.requested()) and status["attempt"] != attempt:
        say(f"{stopping.stop_name(number)}: {stopping.BEFORE_IT_BEGAN}")


def _wait(workers: list[subprocess.Popen[bytes]], patience: Callable[[], float]) -> tuple[int, int]:
    """The first exit code of a failure; without one, that of a stop, or 0; and the number of its
    process. A signal is passed on, and the processes have the time that their checkpoint needs:
    `patience()` seconds after the first one has stopped.
    """
    passed_on, last_stop = 0, math.inf
    while True:
        codes = [_exit_code(worker, passed_on) for worker in workers]
        for number, code in enumerate(codes):
            if code and code not in STOP_CODES:
                return code, number
        stopped = [code for code in codes if code]
        if None not in codes:
            return (stopped[0] or 0 if stopped else 0), 0
        if stopped:
            last_stop = min(last_stop, time.monotonic())
            if time.monotonic() - last_stop > patience():  # it was stopped before the others began
                return stopped[0] or 0, 0
        asked = stopping.requested()
        if asked and not passed_on:
            passed_on = asked
            for worker in workers:
                pass_on(worker, asked)
        time.sleep(0.1)


def _exit_code(worker: subprocess.Popen[bytes], passed_on: int) -> int | None:
    """None while it runs. A signal that was passed on may kill a process that has just started."""
    code = worker.poll()
    return 128 + passed_on if passed_on and code == -passed_on else code
