"""Threads that wait for a network. The process may end while they wait."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_Call = tuple[Future[Any], Callable[[], Any]]


class DaemonPool:
    """Up to `most` threads that make the submitted calls.

    Python ends only after the threads of a ThreadPoolExecutor have ended. A call that waits for a
    server which hangs would keep a stopped command alive; these threads do not.
    """

    def __init__(self, most: int, name: str) -> None:
        self._most, self._name = most, name
        self._calls: queue.SimpleQueue[_Call | None] = queue.SimpleQueue()
        self._idle = threading.Semaphore(0)
        self._threads: list[threading.Thread] = []

    def submit(self, work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Call `work` in a thread as soon as one is free."""
        future: Future[T] = Future()
        self._calls.put((future, lambda: work(*args, **kwargs)))
        if not self._idle.acquire(blocking=False) and len(self._threads) < self._most:
            thread = threading.Thread(target=self._run, daemon=True, name=self._name)
            self._threads.append(thread)
            thread.start()
        return future

    def close(self) -> None:
        """Cancel the calls that have not begun, and let the threads end without waiting."""
        while not self._calls.empty():
            call = self._calls.get()
            if call is not None:
                call[0].cancel()
        for _ in self._threads:
            self._calls.put(None)

    def _run(self) -> None:
        while (call := self._calls.get()) is not None:
            future, work = call
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:
                    future.set_exception(error)
            del future, work, call
            self._idle.release()
