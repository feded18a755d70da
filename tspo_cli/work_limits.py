"""Limits of time and memory for work that foreign files decide about."""

from __future__ import annotations

import faulthandler
import os
import resource
import select
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_GRACE = 1.0
"""Seconds that a copy of this process may take beyond its limit, to end by itself."""


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


def in_copy(work: Callable[[], str], seconds: float) -> str:
    """What `work` returns in a copy of this process, which is killed when it takes longer. `work`
    may hang or crash in C code, where `at_most` interrupts nothing, and may lower limits of its
    process. It starts no threads, writes nothing, and raises nothing.

    On Linux alone; elsewhere, and where the system refuses another process, it runs here.

    Raises:
        TimeoutError: it takes longer.
        ChildProcessError: the copy ended without a result, as in a crash.
    """
    if sys.platform != "linux":
        return work()
    reading, writing = os.pipe()
    try:
        with warnings.catch_warnings():
            # Of other threads, whose locks `work` does not take.
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
    except OSError:
        os.close(reading)
        os.close(writing)
        return work()
    if not child:
        _end_as_copy(work, writing, seconds)
    os.close(writing)
    try:
        data, finished = _read_for(reading, seconds + _GRACE)
    finally:
        os.close(reading)
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    if not finished:
        raise TimeoutError(f"longer than {seconds:g} seconds")
    if not data.endswith(b"\0"):
        raise ChildProcessError("the process ended without a result")
    return data[:-1].decode()


def _end_as_copy(work: Callable[[], str], writing: int, seconds: float) -> None:
    """The life of the copy. Nothing of the process that it was copied from runs at its end."""
    try:
        faulthandler.disable()  # a crash is no fault of tspo
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_DFL)
        used = time.process_time()
        limit = int(used + seconds + _GRACE) + 1
        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        if hard == resource.RLIM_INFINITY or limit < hard:
            resource.setrlimit(resource.RLIMIT_CPU, (limit, hard))
        with open(writing, "wb", closefd=False) as pipe:
            pipe.write(work().encode() + b"\0")
    finally:
        os._exit(0)


def _read_for(reading: int, seconds: float) -> tuple[bytes, bool]:
    """What comes out of a pipe, and whether it came to its end within the time."""
    until = time.monotonic() + seconds
    parts: list[bytes] = []
    poll = select.poll()
    poll.register(reading, select.POLLIN | select.POLLHUP)
    while (left := until - time.monotonic()) > 0:
        if poll.poll(left * 1000):
            part = os.read(reading, 1 << 20)
            if not part:
                return b"".join(parts), True
            parts.append(part)
    return b"".join(parts), False
