"""Work that goes on in a thread of its own while this one does something else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Event
from typing import TypeVar

T = TypeVar("T")


@contextmanager
def alongside(work: Callable[[Event], T] | None) -> Iterator[Callable[[], T | None]]:
    """Run `work` beside the body of the `with` (None: nothing to run).

    Yields a function that waits for its result, or raises its error. When the body fails, `work` is
    told through its event to give up, and the block ends once it has.
    """
    if work is None:
        yield lambda: None
        return
    stop = Event()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        future = pool.submit(work, stop)
        try:
            yield future.result
        except BaseException:
            stop.set()
            raise
