"""Work in a background thread while the main thread does something else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def in_background(work: Callable[[Event], T]) -> Iterator[Callable[[], T]]:
    """Run `work` in a thread during the body of the `with` statement.

    Yields a function that waits for the result of `work` and returns it, or raises its error. When
    the body fails, the event that `work` was given is set, and the block waits until `work` has
    ended.
    """
    stop = Event()
    with ThreadPoolExecutor(1, thread_name_prefix="background") as pool:
        future = pool.submit(work, stop)
        try:
            yield future.result
        except BaseException:
            stop.set()
            raise
