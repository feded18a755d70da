"""Trainings as child processes of a server that has already imported what every training needs.

Imports take a quarter of the CPU time of a small training. `multiprocessing`'s fork server imports
once, and its children start with the modules loaded. Apart from that a child is
`python -m tspo_cli`.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import runpy
import signal
import sys
from collections.abc import Sequence
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from tspo_cli.text.secrets import without_secrets
from tspo_cli.training.launch.child_processes import end_with, set_parent_death_signal

PRELOADED = "tspo_cli.training.launch.preload"
STOP_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGUSR1, signal.SIGTERM)
"""After these a training ends in order, with the exit code 128 + the number of the signal."""
_ENDS_WITH_SWEEP = "tspo_cli.training.launch.end_of_server"
_ERROR, _TRACEBACK = "error: ", "Traceback (most recent call last):"
_OF_RANK = re.compile(r"^\[rank\d+\]: ?")


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


def why_it_ended(code: int, said: str) -> str:
    """Why a training failed that ended with the exit code `code` and `said` this on stderr: its
    last error line, which other lines may follow. Without one, the exception of a traceback.
    """
    if code < 0:
        return f"was killed by {signal.Signals(-code).name}, for example because memory ran out"
    if code - 128 in STOP_SIGNALS:
        return f"was stopped by {signal.Signals(code - 128).name}"
    return f"exit code {code}: {_quoted(said)}"


def _quoted(said: str) -> str:
    lines = [_OF_RANK.sub("", line) for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(_ERROR)]
    if errors:
        return errors[-1].removeprefix(_ERROR)
    traces = [number for number, line in enumerate(lines) if line == _TRACEBACK]
    after = lines[traces[-1] + 1 :] if traces else []
    raised = [line for line in after if not line.startswith(" ")]
    if raised:
        return without_secrets(raised[0])
    if not lines:
        return "its log is empty"
    return f"its log has no error line and ends with: {without_secrets(lines[-1])}"


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
