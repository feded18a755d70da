"""Searches of a retriever behind a network: a free connection takes all that wait at once."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field

from tspo_cli.retrieval.types import Retriever, SearchResult
from tspo_cli.threads import DaemonPool

MAX_QUERIES = 256
"""Of one request, as `HttpRetriever` sends it."""


@dataclass(frozen=True, slots=True)
class Search:
    """The search of a session, and until when (monotonic clock) it may wait for a connection."""

    session: int
    query: str
    until: float


@dataclass(slots=True, eq=False)
class _Request:
    """Searches of one request on its way, until when it may take, and whether they were given up:
    the connection stays taken until the retriever returns.
    """

    future: Future[list[SearchResult]]
    searches: Sequence[Search]
    until: float
    given_up: bool = False


@dataclass
class SearchRequests:
    """Searches that wait for one of `connections`, and requests on their way.

    A search may take `seconds` from when its request is sent. The wait for a connection before does
    not count; it is limited to the same time. Which searches share a request changes no result.
    """

    retriever: Retriever
    k: int
    connections: int
    seconds: float
    waiting: list[Search] = field(default_factory=list)
    requests: list[_Request] = field(default_factory=list)
    pool: DaemonPool = field(init=False)

    def __post_init__(self) -> None:
        self.pool = DaemonPool(self.connections, "search")

    def add(self, session: int, query: str) -> None:
        """Let the search of a session wait for a connection."""
        self.waiting.append(Search(session, query, time.monotonic() + self.seconds))

    def drop(self, session: int) -> None:
        """Do not send the search of a session that has ended, if it still waits."""
        self.waiting = [search for search in self.waiting if search.session != session]

    def send(self) -> None:
        """Give what waits to the free connections."""
        while self.waiting and len(self.requests) < self.connections:
            searches, self.waiting = self.waiting[:MAX_QUERIES], self.waiting[MAX_QUERIES:]
            queries = [search.query for search in searches]
            future = self.pool.submit(self.retriever.search, queries, self.k)
            self.requests.append(_Request(future, searches, time.monotonic() + self.seconds))

    def results(self) -> Iterator[tuple[int, SearchResult]]:
        """The sessions whose search has a result, or is late, with the result. The oldest first.

        Raises:
            RemoteServiceError: the retriever does not answer.
        """
        now = time.monotonic()
        ended = [request for request in self.requests if request.future.done()]
        late = [
            request
            for request in self.requests
            if request not in ended and now >= request.until and not request.given_up
        ]
        self.requests = [request for request in self.requests if request not in ended]
        for request in ended:
            if not request.given_up:
                for search, result in zip(request.searches, request.future.result(), strict=True):
                    yield search.session, result
        for request in late:
            request.given_up = True
            no_answer = SearchResult(error=f"no answer within {self.seconds:g} s")
            yield from ((search.session, no_answer) for search in request.searches)
        crowded = SearchResult(
            error=f"no free connection within {self.seconds:g} s; raise retriever.concurrency"
        )
        late_searches = [search for search in self.waiting if now >= search.until]
        self.waiting = [search for search in self.waiting if now < search.until]
        yield from ((search.session, crowded) for search in late_searches)

    def sessions(self) -> Iterator[int]:
        """The sessions that wait for a result."""
        yield from (search.session for search in self.waiting)
        for request in self.requests:
            if not request.given_up:
                yield from (search.session for search in request.searches)

    def wait(self, seconds: float) -> None:
        """Sleep until a request ends or a search is late, for at most `seconds`."""
        ends = [request.until for request in self.requests if not request.given_up]
        ends += [search.until for search in self.waiting]
        wait(
            [request.future for request in self.requests],
            timeout=max(0.0, min(seconds, min(ends) - time.monotonic())),
            return_when=FIRST_COMPLETED,
        )

    def close(self) -> None:
        """Leave the requests on their way to themselves."""
        self.pool.close()
