"""Waiting searches share the next request, and deadlines count what a search itself takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from tspo_cli.errors import RemoteServiceError
from tspo_cli.retrieval.types import Hit, RetrieverInfo, SearchResult
from tspo_cli.rollout.search_requests import MAX_QUERIES, SearchRequests


@dataclass
class GatedRetriever:
    """Answers while its gate is open, and notes the queries of every request."""

    gate: threading.Event = field(default_factory=threading.Event)
    blocking: bool = True
    requests: list[list[str]] = field(default_factory=list)
    error: Exception | None = None

    def describe(self) -> RetrieverInfo:
        return RetrieverInfo()

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        self.requests.append(list(queries))
        self.gate.wait(timeout=20)
        if self.error is not None:
            raise self.error
        return [
            SearchResult(error="no such shard")
            if query == "fail"
            else SearchResult((Hit(query, f'"{query}"\nfound', 1.0),) * k)
            for query in queries
        ]


@contextmanager
def requests_to(
    retriever: GatedRetriever, connections: int, seconds: float = 20.0
) -> Iterator[SearchRequests]:
    found = SearchRequests(retriever, 1, connections, seconds)
    try:
        yield found
    finally:
        retriever.gate.set()
        found.close()


def until(condition: object, searches: SearchRequests) -> dict[int, SearchResult]:
    """The results that arrive until `condition` holds."""
    found: dict[int, SearchResult] = {}
    end = time.monotonic() + 10
    while not condition(found):  # type: ignore[operator]
        assert time.monotonic() < end
        if list(searches.sessions()):
            searches.wait(0.05)
        found |= dict(searches.results())
        searches.send()
    return found


def test_a_free_connection_takes_all_that_waits() -> None:
    retriever = GatedRetriever()
    with requests_to(retriever, connections=1) as searches:
        for session, query in enumerate(("a", "b", "c", "d")):  # each after another engine step
            searches.add(session, query)
            searches.send()
        assert sorted(searches.sessions()) == [0, 1, 2, 3]
        retriever.gate.set()
        found = until(lambda done: len(done) == 4, searches)
    assert retriever.requests == [["a"], ["b", "c", "d"]]
    assert {session: result.hits[0].id for session, result in found.items()} == dict(
        enumerate("abcd")
    )


@pytest.mark.parametrize("connections", [1, 2, 3, 7])
def test_no_more_requests_than_connections_and_all_of_them_are_used(connections: int) -> None:
    retriever = GatedRetriever()
    with requests_to(retriever, connections) as searches:
        for session in range(9):
            searches.add(session, str(session))
            searches.send()
        end = time.monotonic() + 10
        while len(retriever.requests) < connections and time.monotonic() < end:
            time.sleep(0.001)
        assert len(retriever.requests) == connections
        retriever.gate.set()
        found = until(lambda done: len(done) == 9, searches)
    assert all(result.hits[0].id == str(session) for session, result in found.items())
    waited = [query for request in retriever.requests[connections:] for query in request]
    assert sorted(waited) == [str(n) for n in range(connections, 9)]


def test_a_request_has_at_most_as_many_queries_as_servers_take() -> None:
    retriever = GatedRetriever()
    retriever.gate.set()
    with requests_to(retriever, connections=1) as searches:
        for session in range(2 * MAX_QUERIES + 3):
            searches.add(session, str(session))
        searches.send()
        found = until(lambda done: len(done) == 2 * MAX_QUERIES + 3, searches)
    assert [len(request) for request in retriever.requests] == [MAX_QUERIES, MAX_QUERIES, 3]
    assert [result.hits[0].id for _, result in sorted(found.items())] == [
        str(n) for n in range(2 * MAX_QUERIES + 3)
    ]


def test_one_failed_search_of_a_request_fails_alone() -> None:
    retriever = GatedRetriever()
    retriever.gate.set()
    with requests_to(retriever, connections=1) as searches:
        for session, query in enumerate(("a", "fail", "c")):
            searches.add(session, query)
        searches.send()
        found = until(lambda done: len(done) == 3, searches)
    assert retriever.requests == [["a", "fail", "c"]]
    assert [found[session].error for session in range(3)] == [None, "no such shard", None]


def test_the_wait_for_a_connection_is_not_time_of_the_search() -> None:
    class Slow(GatedRetriever):
        def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
            time.sleep(0.25)
            return super().search(queries, k)

    retriever = Slow()
    retriever.gate.set()
    with requests_to(retriever, connections=1, seconds=0.4) as searches:
        searches.add(0, "a")
        searches.send()
        searches.add(1, "b")  # waits for 0.25 s, takes 0.25 s: 0.5 s in all
        found = until(lambda done: len(done) == 2, searches)
    assert [found[session].error for session in (0, 1)] == [None, None]


def test_a_search_is_late_or_finds_no_connection_and_a_late_request_keeps_its_own() -> None:
    retriever = GatedRetriever()
    with requests_to(retriever, connections=1, seconds=0.1) as searches:
        searches.add(0, "a")
        searches.send()
        searches.add(1, "b")
        found = until(lambda done: len(done) == 2, searches)
        assert found[0].error == "no answer within 0.1 s"
        assert found[1].error == ("no free connection within 0.1 s; raise retriever.concurrency")
        assert list(searches.sessions()) == []
        searches.add(2, "c")
        searches.send()
        assert retriever.requests == [["a"]], "the late request still has the connection"
        retriever.gate.set()
        found = until(lambda done: len(done) == 1, searches)
    assert found[2].hits[0].id == "c"


def test_the_search_of_a_rollout_that_has_ended_is_not_sent() -> None:
    retriever = GatedRetriever()
    with requests_to(retriever, connections=1) as searches:
        for session, query in enumerate(("a", "b", "c")):
            searches.add(session, query)
            searches.send()
        searches.drop(1)
        searches.drop(0)  # on its way
        retriever.gate.set()
        found = until(lambda done: len(done) == 2, searches)
    assert retriever.requests == [["a"], ["c"]]
    assert sorted(found) == [0, 2]


def test_an_outage_is_raised() -> None:
    retriever = GatedRetriever(error=RemoteServiceError("nobody answers"))
    retriever.gate.set()
    with requests_to(retriever, connections=2) as searches:
        searches.add(0, "a")
        searches.send()
        with pytest.raises(RemoteServiceError, match="nobody answers"):
            until(lambda done: bool(done), searches)
