"""Trainings as child processes of a server that has imported already what every training needs.

Imports take a quarter of the CPU time of a small training. The server (`multiprocessing`'s fork
server) pays for them once, and its children begin with them. A child is `python -m tspo_cli` in
everything else.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
from collections.abc import Sequence
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

PRELOADED = "tspo_cli.training.launch.preload"


def training_context(more: str) -> ForkServerContext:
    """Where trainings are started, with what they need and the module `more` imported. One thread
    each, unless OMP_NUM_THREADS says otherwise.
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([PRELOADED, more])
    return context


def start_training(
    context: ForkServerContext, arguments: Sequence[str], log: Path
) -> ForkServerProcess:
    """Start `tspo ARGUMENTS`; its stdout is dropped, its stderr is appended to `log`. `exitcode` is
    as on a shell, and -N after signal N.
    """
    process = context.Process(target=_run, args=(list(arguments), str(log)))
    process.start()
    return process


def _run(arguments: list[str], log: str) -> None:
    for number, path, flags in (
        (0, os.devnull, os.O_RDONLY),
        (1, os.devnull, os.O_WRONLY),
        (2, log, os.O_WRONLY | os.O_APPEND | os.O_CREAT),
    ):
        opened = os.open(path, flags, 0o644)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = ["tspo", *arguments]
    runpy.run_module("tspo_cli", run_name="__main__", alter_sys=True)
