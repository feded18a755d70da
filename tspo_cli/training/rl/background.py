"""Work in a background thread while the main thread does something else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager
from threading import Event
from typing import TypeVar

from tspo_cli.threads import DaemonPool

T = TypeVar("T")

_LONGEST_STOP = 3.0
"""Seconds that a failed body waits for the work to stop. It may hang in a library."""


@contextmanager
def in_background(work: Callable[[Event], T]) -> Iterator[Callable[[], T]]:
    """Run `work` in a thread during the body of the `with` statement.

    Yields a function that waits for the result of `work` and returns it, or raises its error. When
    the body fails, the event that `work` was given is set, and the block waits for `work` to end, a
    few seconds at most.
    """
    stop = Event()
    pool = DaemonPool(1, "background")
    future = pool.submit(work, stop)
    try:
        yield future.result
    except BaseException:
        stop.set()
        wait([future], timeout=_LONGEST_STOP)
        raise
    finally:
        pool.close()
