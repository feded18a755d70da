"""What SIGTERM, SIGHUP, SIGUSR1 and Ctrl-C do: the first ends the command in order, a second one
ends it at once.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType

from tspo_cli import stopping

_GRACE = 1.0
"""Seconds that a second signal leaves to write down that the run was stopped."""
_SAME = 2.0
"""Seconds in which signals count as one: a launcher repeats what its processes got already."""
_first: int | None = None
_first_time = 0.0
_in_order = True


def end_on_signals() -> None:
    """Let the first SIGTERM raise SystemExit(143), the first SIGHUP SystemExit(129), the first
    SIGUSR1 SystemExit(138) and the first SIGINT KeyboardInterrupt, so that files are left in order;
    a training defers them (`stopping`). A second signal ends the process without anything else.
    Under nohup, SIGHUP stays ignored.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, _on_signal)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _on_signal)


def all_is_in_order() -> None:
    """Say that the command has left its files in order: now a second signal need not wait. After a
    signal the process ends here, without waiting for threads that may hang in a library.
    """
    global _in_order
    _in_order = True
    if _first is not None:
        atexit._run_exitfuncs()  # they end the processes of an engine
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(128 + _first)


def _on_signal(number: int, frame: FrameType | None) -> None:
    global _first, _first_time, _in_order
    if _first is None:
        _first, _first_time, _in_order = number, time.monotonic(), False
        stopping.request_stop(number)
        return
    if _is_repeated() or stopping.is_of_starter(number):
        return
    if _in_order:
        os._exit(128 + _first)
    threading.Timer(_GRACE, os._exit, [128 + _first]).start()
    if not stopping.is_urgent():
        stopping.request_stop(number, urgent=True)


def _is_repeated() -> bool:
    """True if a launcher may have passed on the first signal, which this process got itself."""
    is_one_of_several = os.environ.get("WORLD_SIZE", "").strip() not in ("", "0", "1")
    return is_one_of_several and time.monotonic() - _first_time < _SAME
