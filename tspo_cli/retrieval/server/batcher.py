"""Batches the queries of many clients. A single thread owns the index and searches.

When the thread is free, it takes all waiting queries as its next batch: an idle server answers at
once, and a busy server forms larger batches. Clients that just got a response are likely to send
the next query, so a small batch right after a larger one waits for them briefly; later queries
never wait. Indexes and encoders need not be thread-safe.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tspo_cli.console import agreeing, counted
from tspo_cli.retrieval.server.answer_cache import AnswerCache, CacheKey, normalise
from tspo_cli.retrieval.server.server_metrics import ServerMetrics
from tspo_cli.retrieval.server.wire_format import EncodedResult, encode_result
from tspo_cli.retrieval.types import Retriever, RetrieverInfo, SearchResult

log = logging.getLogger(__name__)
_LONGEST_RETRY = 60
_LAST_SEARCH = 10.0
_GATHER = 0.08
"""The next batch waits up to this share of the last batch's time, until it is as large as the last
batch and its queue together.
"""


class Overloaded(Exception):
    """Too many queries wait. `retry_after`: seconds after which a client should try again."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"overloaded; try again in {retry_after} s")
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class _Waiting:
    query: str
    key: CacheKey
    since: float
    future: asyncio.Future[EncodedResult]


class Batcher:
    """Answers queries from the cache, from a running search, or from the next batch.

    Call its methods in the event loop that called `start`. One thread owns the index and the
    encoder, and searches.

    Args:
        open_retriever: opens the index; called once, in the owning thread.
        max_batch: most queries in one search.
        max_waiting: queries that may wait; beyond that `search` raises Overloaded.
        max_wait: seconds after which a waiting query fails with Overloaded.
        cache_bytes: limit of the cache.
    """

    def __init__(
        self,
        open_retriever: Callable[[], Retriever],
        metrics: ServerMetrics,
        *,
        max_batch: int,
        max_waiting: int,
        max_wait: float,
        cache_bytes: int,
    ) -> None:
        self._open = open_retriever
        self._metrics = metrics
        self._max_batch, self._max_waiting, self._max_wait = max_batch, max_waiting, max_wait
        self._cache = AnswerCache(cache_bytes)
        self._queue: deque[_Waiting] = deque()
        self._running: dict[CacheKey, asyncio.Future[EncodedResult]] = {}
        self._wake = threading.Condition()
        self._closing = False
        self._rate = 0.0
        self._gather_until, self._gather_size = 0.0, 0
        self.info: RetrieverInfo | None = None
        """The description of the index; None until it is open."""
        metrics.watch(waiting=lambda: len(self._queue), cache=self._cache)

    def start(self) -> asyncio.Future[None]:
        """Start the owning thread. The future is done when the index is open; it has the error if
        opening failed.
        """
        self._loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(
            target=self._run, args=(opened,), name="index-owner", daemon=True
        )
        self._thread.start()
        return opened

    def close(self) -> None:
        """Answer the waiting queries, then end the thread.

        It does not wait for an index that is still opening, nor more than ten seconds for a search;
        the thread then ends with the process.
        """
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self.info is not None:
            self._thread.join(_LAST_SEARCH)

    async def search(self, queries: Sequence[str], k: int) -> list[EncodedResult]:
        """One result per query, in order.

        Raises:
            Overloaded: too many queries wait, or one waited too long. Results of the others are
                cached.
        """
        info = self.info or RetrieverInfo()
        keys = [(info.index_digest, k, normalise(query, info.kind)) for query in queries]
        results: list[EncodedResult | asyncio.Future[EncodedResult]] = []
        new: list[_Waiting] = []
        cached = shared = 0
        now = time.monotonic()
        for query, key in zip(queries, keys, strict=True):
            known = self._cache.get(key)
            future = self._running.get(key)
            if known is not None:
                cached += 1
                results.append(known)
                continue
            if future is None:
                future = self._running[key] = self._loop.create_future()
                new.append(_Waiting(query, key, now, future))
            else:
                shared += 1
            results.append(future)
        self._metrics.queries(cached=cached, shared=shared, searched=len(new))
        if new:
            self._enqueue(new)
        return [result if isinstance(result, EncodedResult) else await result for result in results]

    def _enqueue(self, new: list[_Waiting]) -> None:
        with self._wake:
            if accepted := len(self._queue) + len(new) <= self._max_waiting:
                self._queue.extend(new)
                self._wake.notify()
        if not accepted:
            refusal = Overloaded(self._retry_after())
            for waiting in new:
                self._settle(waiting, refusal)
            raise refusal

    def _retry_after(self) -> int:
        seconds = len(self._queue) / self._rate if self._rate else 1.0
        return max(1, min(_LONGEST_RETRY, math.ceil(seconds)))

    def _settle(self, waiting: _Waiting, outcome: EncodedResult | Overloaded) -> None:
        self._running.pop(waiting.key, None)
        if isinstance(outcome, EncodedResult):
            self._cache.put(waiting.key, outcome)
        if waiting.future.done():  # its only client has disconnected
            return
        if isinstance(outcome, EncodedResult):
            waiting.future.set_result(outcome)
        else:
            waiting.future.set_exception(outcome)
            # Mark it as retrieved: a refused request awaits only the first of its queries.
            waiting.future.exception()

    # The following methods run in the owning thread.

    def _run(self, opened: asyncio.Future[None]) -> None:
        try:
            retriever = self._open()
            info = retriever.describe()
        except BaseException as error:
            self._call(opened.set_exception, error)
            return
        self.info = info
        self._call(opened.set_result, None)
        while batch := self._next_batch():
            self._answer(retriever, batch)

    def _next_batch(self) -> list[_Waiting]:
        """Queries with the same k, oldest first; empty when the batcher closes."""
        with self._wake:
            while not self._queue and not self._closing:
                self._wake.wait()
            while (left := self._gather_until - time.monotonic()) > 0 and self._may_gather():
                self._wake.wait(left)
            batch: list[_Waiting] = []
            while (
                self._queue
                and len(batch) < self._max_batch
                and (not batch or self._queue[0].key[1] == batch[0].key[1])
            ):
                batch.append(self._queue.popleft())
            return batch

    def _may_gather(self) -> bool:
        return len(self._queue) < self._gather_size and not self._closing

    def _answer(self, retriever: Retriever, batch: list[_Waiting]) -> None:
        start = time.monotonic()
        # A shutdown cancels requests, whose futures are then done.
        pending = [waiting for waiting in batch if not waiting.future.done()]
        late = [waiting for waiting in pending if start - waiting.since > self._max_wait]
        timely = [waiting for waiting in pending if start - waiting.since <= self._max_wait]
        outcomes: list[tuple[_Waiting, EncodedResult | Overloaded]] = [
            (waiting, Overloaded(self._retry_after())) for waiting in late
        ]
        if timely:
            queries = [waiting.query for waiting in timely]
            results = search_each(retriever, queries, timely[0].key[1])
            outcomes += zip(timely, map(encode_result, results), strict=True)
            end = time.monotonic()
            seconds = max(end - start, 1e-6)
            self._gather_size = min(len(timely) + len(self._queue), self._max_batch)
            self._gather_until = end + _GATHER * seconds
            self._rate = 0.8 * (self._rate or len(timely) / seconds) + 0.2 * len(timely) / seconds
            self._metrics.batch(len(timely), seconds)
        self._call(self._settle_all, outcomes)

    def _settle_all(self, outcomes: list[tuple[_Waiting, EncodedResult | Overloaded]]) -> None:
        for waiting, outcome in outcomes:
            self._settle(waiting, outcome)

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        # After the loop has been closed, no client waits for a result.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)


def search_each(retriever: Retriever, queries: Sequence[str], k: int) -> list[SearchResult]:
    """Search the batch. If it fails, search its halves, so that a bad query fails alone."""
    try:
        results = retriever.search(queries, k)
        if len(results) != len(queries):
            asked = agreeing(len(queries), "query", "queries")
            raise RuntimeError(f"{counted(len(results), 'result')} for {asked}")
        return results
    except Exception as error:
        if len(queries) == 1:
            log.exception("search failed")
            return [SearchResult(error=f"{type(error).__name__}: {error}")]
    half = len(queries) // 2
    return search_each(retriever, queries[:half], k) + search_each(retriever, queries[half:], k)
