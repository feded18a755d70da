"""No training outlives the process that started it.

`python -m tspo_cli.training.launch.child_processes PID ARGUMENTS` is `tspo ARGUMENTS` that ends
when the process PID, which started it, has ended.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.process import BaseProcess

from tspo_cli import stopping

PATIENCE = 4.0
"""Seconds that a process has to end by itself before it is killed."""
CHECKPOINT_PATIENCE = 30.0
"""Seconds that a training has that writes a checkpoint first."""
URGENT_PATIENCE = 0.5
"""Seconds that a process has after a second signal, which ends this process in one second."""
_POLL_SECONDS = 0.5
_PR_SET_PDEATHSIG = 1

Child = subprocess.Popen[bytes] | subprocess.Popen[str] | BaseProcess


def end_with_parent(parent: int) -> None:
    """`end_with` for the parent of this process, which was started by the process `parent`. On
    Linux also where this process is stopped (SIGSTOP): it goes on to end.
    """
    set_parent_death_signal(signal.SIGCONT)
    end_with(lambda: os.getppid() != parent)


def end_with(has_ended: Callable[[], bool]) -> None:
    """End this process when the one that started it `has_ended`, also where that was killed: first
    as SIGTERM does, and at once if that takes longer than `PATIENCE`.
    """
    stopping.expect_from_starter()
    threading.Thread(target=_watch, args=(has_ended,), daemon=True).start()


def set_parent_death_signal(number: signal.Signals) -> None:
    """Have Linux send this process a signal when its parent has ended; elsewhere nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def child_command(arguments: Sequence[str]) -> list[str]:
    """The words that start `tspo ARGUMENTS` as a process that ends with this one."""
    return [sys.executable, "-m", __name__, str(os.getpid()), *arguments]


def _watch(has_ended: Callable[[], bool]) -> None:
    while not has_ended():
        time.sleep(_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(PATIENCE)
    os._exit(128 + signal.SIGTERM)


def pass_on(process: Child, number: int) -> None:
    """Send a signal to a process, also to one that is stopped (SIGSTOP). It may have ended."""
    if process.pid is None or _has_ended(process):
        return
    with suppress(ProcessLookupError):
        os.kill(process.pid, number)
        os.kill(process.pid, signal.SIGCONT)


def end_processes(processes: Sequence[Child], patience: float | None = None) -> None:
    """End all processes: SIGTERM, and SIGKILL after `patience` seconds (None: `PATIENCE`; after a
    second signal to this process, `URGENT_PATIENCE`).
    """
    for process in processes:
        pass_on(process, signal.SIGTERM)
    seconds = PATIENCE if patience is None else patience
    until = time.monotonic() + (URGENT_PATIENCE if stopping.is_urgent() else seconds)
    while time.monotonic() < until and not all(_has_ended(process) for process in processes):
        time.sleep(0.05)
    for process in processes:
        if not _has_ended(process):
            process.kill()
    for process in processes:
        process.wait() if isinstance(process, subprocess.Popen) else process.join()


def _has_ended(process: Child) -> bool:
    if isinstance(process, subprocess.Popen):
        return process.poll() is not None
    return process.exitcode is not None


def _main() -> None:
    _, parent, *arguments = sys.argv
    end_with_parent(int(parent))
    sys.argv = ["tspo", *arguments]
    runpy.run_module("tspo_cli", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
