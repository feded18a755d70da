"""CPU threads of a training process, how they wait, and how many processes may share the cores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tspo_cli.console import counted
from tspo_cli.errors import InvalidInputError
from tspo_cli.variables import number_in

if TYPE_CHECKING:
    from tspo_cli.config.schema import Config

_MOST_PER_CORE = 8
"""Processes: more are a slip that fills the memory."""
_ROUNDS_OF_WAITING = 1000
"""About a microsecond. GNU OpenMP waits 300 times as long by itself."""
# Variables with which a user sets the same.
_SET_BY_USER = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def yield_waiting_cores() -> None:
    """Let a thread of PyTorch that waits for another one give its core away soon, also in the
    processes that this one starts. Call it before torch is imported.

    The thread that it waits for may need that core: beside other work, an update with as many
    threads as cores takes 0.7 of the time. What a user has set stays as it is.
    """
    if not any(name in os.environ for name in _SET_BY_USER):
        os.environ["GOMP_SPINCOUNT"] = str(_ROUNDS_OF_WAITING)


@contextmanager
def optimizer_threads(config: Config) -> Iterator[None]:
    """Within it, PyTorch computes with all CPU cores of this process, where the optimiser is
    offloaded: train.threads if it is set, else an equal share of the machine.
    """
    if not config.deepspeed.offload_optimizer:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(config.train.threads or share_of_cores(config.train.processes))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def share_of_cores(processes: int) -> int:
    """CPU cores of this machine for each of its training processes: `processes`, or as many as a
    launcher says (LOCAL_WORLD_SIZE).
    """
    here = number_in("LOCAL_WORLD_SIZE", processes) or 1
    return max(1, len(os.sched_getaffinity(0)) // here)


def refuse_too_many(key: str, processes: int, held: str) -> None:
    """Refuse more processes than the CPU cores of this machine bear, if it has no GPUs. `key` is
    the setting that gives their number, and `held` what each of them holds.

    Raises:
        InvalidInputError: there are more than eight for each core.
    """
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    if processes > _MOST_PER_CORE * cores and not torch.cuda.device_count():
        raise InvalidInputError(
            f"{key}: {processes} processes share {counted(cores, 'CPU core')}, and each holds "
            f"{held}; set {key} to {cores}, at most {_MOST_PER_CORE * cores}"
        )
