"""Queries of many clients, searched together by the one thread that owns the index.

Whatever waits when the thread is free is its next batch: an idle server answers at once and a busy
one makes larger batches by itself. Clients that were just answered are likely to ask again, so that
a small batch right after a larger one waits for them a moment; a query that comes later than that
never waits. Indexes and encoders need not be thread-safe.
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

from tspo_cli.retrieval.server.answer_cache import AnswerCache, CacheKey, normalise
from tspo_cli.retrieval.server.server_metrics import ServiceMetrics
from tspo_cli.retrieval.server.wire_format import Answer, encode_answer
from tspo_cli.retrieval.types import Retriever, RetrieverInfo, SearchResult

log = logging.getLogger(__name__)
_LONGEST_RETRY = 60
_LAST_SEARCH = 10.0
_GATHER = 0.08
"""Of the time that a batch took, so much after its end the next one waits to be as large as all
that was asked then.
"""


class Overloaded(Exception):
    """More waits than may wait. `retry_after`: seconds until that should have passed."""

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"overloaded; try again in {retry_after} s")
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class _Waiting:
    query: str
    key: CacheKey
    since: float
    future: asyncio.Future[Answer]


class Batcher:
    """Answers from the cache, from a search under way, or from the next batch.

    Its methods belong to the event loop that called `start`. Index, encoder and searches belong to
    one thread.

    Args:
        open_retriever: opens the index; called once, in the owning thread.
        max_batch: most queries in one search.
        max_waiting: queries that may wait; beyond that `search` raises Overloaded.
        max_wait: seconds after which a waiting query is given up as overload, for nobody waits for
        it any more. cache_bytes: cap of the answer cache.
    """

    def __init__(
        self,
        open_retriever: Callable[[], Retriever],
        metrics: ServiceMetrics,
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
        self._under_way: dict[CacheKey, asyncio.Future[Answer]] = {}
        self._wake = threading.Condition()
        self._closing = False
        self._rate = 0.0
        self._gather_until, self._gather_size = 0.0, 0
        self.info: RetrieverInfo | None = None
        """What is searched; None until the index is open."""
        metrics.watch(waiting=lambda: len(self._queue), cache=self._cache)

    def start(self) -> asyncio.Future[None]:
        """Start the owning thread. The future is done once the index is open, or has the error that
        kept it shut.
        """
        self._loop = asyncio.get_running_loop()
        opened: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(
            target=self._own, args=(opened,), name="index-owner", daemon=True
        )
        self._thread.start()
        return opened

    def close(self) -> None:
        """Answer what waits, then end the thread. An index that is still being opened is not waited
        for, nor a search for more than ten seconds: the thread ends with the process.
        """
        with self._wake:
            self._closing = True
            self._wake.notify()
        if self.info is not None:
            self._thread.join(_LAST_SEARCH)

    async def search(self, queries: Sequence[str], k: int) -> list[Answer]:
        """One answer per query, in order.

        Raises:
            Overloaded: too much waits already, or waited too long. Nothing was lost: answers found
            go to the cache.
        """
        info = self.info or RetrieverInfo()
        keys = [(info.index_digest, k, normalise(query, info.kind)) for query in queries]
        found: list[Answer | asyncio.Future[Answer]] = []
        fresh: list[_Waiting] = []
        repeats = shared = 0
        now = time.monotonic()
        for query, key in zip(queries, keys, strict=True):
            known = self._cache.get(key)
            future = self._under_way.get(key)
            if known is not None:
                repeats += 1
                found.append(known)
                continue
            if future is None:
                future = self._under_way[key] = self._loop.create_future()
                fresh.append(_Waiting(query, key, now, future))
            else:
                shared += 1
            found.append(future)
        self._metrics.queries(cached=repeats, shared=shared, searched=len(fresh))
        if fresh:
            self._enqueue(fresh)
        return [item if isinstance(item, Answer) else await item for item in found]

    def _enqueue(self, fresh: list[_Waiting]) -> None:
        with self._wake:
            if room := len(self._queue) + len(fresh) <= self._max_waiting:
                self._queue.extend(fresh)
                self._wake.notify()
        if not room:
            refusal = Overloaded(self._retry_after())
            for waiting in fresh:
                self._settle(waiting, refusal)
            raise refusal

    def _retry_after(self) -> int:
        seconds = len(self._queue) / self._rate if self._rate else 1.0
        return max(1, min(_LONGEST_RETRY, math.ceil(seconds)))

    def _settle(self, waiting: _Waiting, outcome: Answer | Overloaded) -> None:
        self._under_way.pop(waiting.key, None)
        if isinstance(outcome, Answer):
            self._cache.put(waiting.key, outcome)
        if waiting.future.done():  # its only client has gone
            return
        if isinstance(outcome, Answer):
            waiting.future.set_result(outcome)
        else:
            waiting.future.set_exception(outcome)
            # seen: a refused request awaits only the first of its queries
            waiting.future.exception()

    # What follows runs in the owning thread.

    def _own(self, opened: asyncio.Future[None]) -> None:
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
        """Queries with the same k, oldest first; empty when it is time to end."""
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
        wanted = [
            waiting for waiting in batch if not waiting.future.done()
        ]  # a shutdown gives up on requests
        late = [waiting for waiting in wanted if start - waiting.since > self._max_wait]
        timely = [waiting for waiting in wanted if start - waiting.since <= self._max_wait]
        outcomes: list[tuple[_Waiting, Answer | Overloaded]] = [
            (waiting, Overloaded(self._retry_after())) for waiting in late
        ]
        if timely:
            results = search_each(
                retriever, [waiting.query for waiting in timely], timely[0].key[1]
            )
            outcomes += zip(timely, map(encode_answer, results), strict=True)
            end = time.monotonic()
            seconds = max(end - start, 1e-6)
            self._gather_size = min(len(timely) + len(self._queue), self._max_batch)
            self._gather_until = end + _GATHER * seconds
            self._rate = 0.8 * (self._rate or len(timely) / seconds) + 0.2 * len(timely) / seconds
            self._metrics.batch(len(timely), seconds)
        self._call(self._settle_all, outcomes)

    def _settle_all(self, outcomes: list[tuple[_Waiting, Answer | Overloaded]]) -> None:
        for waiting, outcome in outcomes:
            self._settle(waiting, outcome)

    def _call(self, function: Callable[..., object], *arguments: object) -> None:
        # A loop that has been closed has nobody left to tell.
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function, *arguments)


def search_each(retriever: Retriever, queries: Sequence[str], k: int) -> list[SearchResult]:
    """Search the batch; if it fails, search its halves, so that a bad query fails alone."""
    try:
        results = retriever.search(queries, k)
        if len(results) != len(queries):
            raise RuntimeError(f"{len(results)} results for {len(queries)} queries")
        return results
    except Exception as error:
        if len(queries) == 1:
            log.exception("search failed")
            return [SearchResult(error=f"{type(error).__name__}: {error}")]
    half = len(queries) // 2
    return search_each(retriever, queries[:half], k) + search_each(retriever, queries[half:], k)
