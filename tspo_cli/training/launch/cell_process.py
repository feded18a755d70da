"""Trainings as child processes of a server that has already imported what every training needs.

Imports take a quarter of the CPU time of a small training. `multiprocessing`'s fork server imports
once, and its children start with the modules loaded. Apart from that a child is
`python -m tspo_cli`.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import signal
import sys
from collections.abc import Sequence
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from tspo_cli.training.launch.child_processes import end_with, set_parent_death_signal

PRELOADED = "tspo_cli.training.launch.preload"
_ENDS_WITH_SWEEP = "tspo_cli.training.launch.end_of_server"


def training_context(preload: str) -> ForkServerContext:
    """The fork server for trainings, which imports this room's modules and the module `preload`.

    Each training uses one thread, unless OMP_NUM_THREADS is set.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_ENDS_WITH_SWEEP, PRELOADED, preload])
    return context


def start_training(
    context: ForkServerContext, arguments: Sequence[str], log: Path
) -> ForkServerProcess:
    """Start `tspo ARGUMENTS`. Its stdout is dropped and its stderr is appended to `log`.

    The process's `exitcode` is that of the command, or -N after signal N.
    """
    process = context.Process(target=_run, args=(list(arguments), str(log)))
    process.start()
    return process


def _run(arguments: list[str], log: str) -> None:
    for stream, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, os.devnull, os.O_WRONLY),
        (2, log, os.O_WRONLY | os.O_APPEND | os.O_CREAT),
    ):
        descriptor = os.open(path, flags, 0o644)
        os.dup2(descriptor, stream)
        os.close(descriptor)
    # Where this process is stopped (SIGSTOP), the end of the fork server lets it go on.
    set_parent_death_signal(signal.SIGCONT)
    # Not everywhere does that end with its starter, so it is not what to watch.
    starter = multiprocessing.parent_process()
    if starter is not None:
        end_with(lambda: not starter.is_alive())
    sys.argv = ["tspo", *arguments]
    runpy.run_module("tspo_cli", run_name="__main__", alter_sys=True)
