"""Limits of time and memory for work that foreign files decide about."""

from __future__ import annotations

import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


class _OutOfTime(BaseException):
    """No Exception, which the body may catch to go on."""


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """Raise TimeoutError inside the body when it takes longer.

    The main thread alone can be interrupted: in other threads the body has no limit. An alarm that
    was set before goes on afterwards.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: Any) -> None:
        raise _OutOfTime

    handler = signal.signal(signal.SIGALRM, end)
    began = time.monotonic()
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except _OutOfTime:
        raise TimeoutError(f"longer than {seconds:g} seconds") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            rest = max(left - (time.monotonic() - began), 1e-3)
            signal.setitimer(signal.ITIMER_REAL, rest, interval)


@contextmanager
def memory_at_most(size: int) -> Iterator[None]:
    """Raise MemoryError inside the body when this process would grow by more than `size` bytes of
    address space. All threads share the limit, which suits a short body at the start of a command.
    Without effect where the system does not tell the size of a process in /proc.
    """
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = pages * resource.getpagesize() + size
    resource.setrlimit(
        resource.RLIMIT_AS, (limit if soft == resource.RLIM_INFINITY else min(soft, limit), hard)
    )
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
