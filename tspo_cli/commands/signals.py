"""What SIGTERM, SIGHUP and Ctrl-C do: the first ends the command in order, a second one ends it at
once.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType

_GRACE = 1.0
"""Seconds that a second signal leaves to write down that the run was stopped."""
_first: int | None = None
_in_order = True


def end_on_signals() -> None:
    """Let the first SIGTERM raise SystemExit(143), the first SIGHUP SystemExit(129) and the first
    SIGINT KeyboardInterrupt, so that files are left in order. A second signal ends the process
    without anything else. Under nohup, SIGHUP stays ignored.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
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
    global _first, _in_order
    if _first is None:
        _first, _in_order = number, False
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)
    if _in_order:
        os._exit(128 + _first)
    threading.Timer(_GRACE, os._exit, [128 + _first]).start()
