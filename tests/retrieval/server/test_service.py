"""The service on a real server, asked by hand in each dialect, and beyond its limits."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi.testclient import TestClient

from tests.retrieval.server.live_server import (
    PASSAGES,
    Scripted,
    serving,
    small_searcher,
    wait_for_metric,
)
from tspo_cli.errors import MissingResourceError
from tspo_cli.retrieval.index.searcher import Searcher
from tspo_cli.retrieval.server.http_app import create_app
from tspo_cli.retrieval.server.listen import is_loopback, listen
from tspo_cli.retrieval.types import Hit, Retriever, RetrieverInfo, SearchResult


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    return small_searcher(tmp_path_factory.mktemp("service"))


@pytest.fixture(scope="module")
def url(searcher: Searcher) -> Iterator[str]:
    with serving(
        searcher, default_k=2, max_k=5, max_queries=300, max_query_chars=200, max_body=20_000
    ) as address:
        yield address


def _post(url: str, body: object, **options: Any) -> httpx.Response:
    return httpx.post(f"{url}/retrieve", json=body, trust_env=False, **options)


def _document(hit: Hit) -> dict[str, str]:
    return {"id": hit.id, "contents": hit.contents}


def test_dialect_a_wraps_documents_with_scores(url: str, searcher: Searcher) -> None:
    answer = _post(url, {"queries": ["blue lake", "zebra"], "topk": 3, "return_scores": True})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    expected = [
        {"document": _document(hit), "score": hit.score}
        for hit in searcher.search(["blue lake"], 3)[0].hits
    ]
    assert answer.json() == {"result": [expected, []]}
    assert expected[0]["document"] == PASSAGES[0]


def test_dialect_b_gives_bare_documents(url: str) -> None:
    for body in (
        {"queries": ["hill"], "topk": 1, "return_scores": False},
        {"queries": ["hill"], "topk": 1},
    ):
        assert _post(url, body).json() == {"result": [[PASSAGES[2]]]}


def test_two_queries_without_scores_are_two_lists_of_documents(url: str) -> None:
    """The count at which another server takes the pair for results and scores."""
    answer = _post(url, {"queries": ["hill", "south"], "topk": 3, "return_scores": False})
    assert answer.json() == {"result": [[PASSAGES[2]], []]}


def test_dialect_c_takes_one_query(url: str) -> None:
    many = _post(url, {"queries": ["lake"], "topk": 2, "return_scores": True})
    single = _post(url, {"query": "lake", "topk": 2, "return_scores": True})
    assert single.json() == many.json()
    assert len(single.json()["result"]) == 1
    assert _post(url, {"query": "hill", "return_scores": False}).json() == {
        "result": [[PASSAGES[2]]]
    }


def test_topk_may_be_null_or_left_out(url: str) -> None:
    for body in ({"queries": ["lake"], "topk": None}, {"queries": ["lake"]}):
        assert len(_post(url, body).json()["result"][0]) == 2
    assert _post(url, {"queries": []}).json() == {"result": []}


@pytest.mark.parametrize(
    "fields",
    [
        {"k": 1},
        {"top_k": 1},
        {"topk": 1},
        {"k": 1, "topk": None},
        {"k": 1, "top_k": 1, "topk": 1},
        {"k": "1"},
        {"k": 1.0, "return_scores": False},
    ],
)
def test_the_number_of_passages_has_three_names(url: str, fields: dict[str, Any]) -> None:
    for query in ({"query": "lake"}, {"queries": ["lake", "lake"]}):
        found = _post(url, query | fields).json()["result"]
        assert [len(documents) for documents in found] == [1] * len(found)


def test_more_hits_than_passages_are_all_that_match(url: str, searcher: Searcher) -> None:
    found = _post(url, {"query": "lake", "topk": 5, "return_scores": False}).json()["result"][0]
    assert found == [_document(hit) for hit in searcher.search(["lake"], 100)[0].hits]
    assert len(found) == 3


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, 'either "queries"'),
        ({"queries": ["a"], "query": "a"}, 'either "queries"'),
        ({"queries": "lake"}, "queries: "),
        ({"queries": ["a", 3]}, "queries.1: "),
        ({"query": ["a"]}, "query: "),
        ({"queries": ["a"], "topk": 0}, "topk: "),
        ({"queries": ["a"], "topk": -1}, "topk: "),
        ({"queries": ["a"], "topk": "many"}, "topk: "),
        ({"queries": ["a"], "topk": 6}, "topk: expected at most 5, got 6"),
        ({"queries": ["a"] * 301}, "queries: expected at most 300 in one request, got 301"),
        ({"query": "a" * 201}, "query: expected at most 200 characters, got 201"),
        ({"queries": ["a"], "return_scores": "perhaps"}, "return_scores: "),
        ({"queries": [None] * 300}, "(and 299 more)"),
        (["a"], "should be an object"),
        ({"query": "a", "k": 6}, "k: expected at most 5, got 6"),
        ({"query": "a", "top_k": 10**12}, "top_k: expected at most 5, got far more"),
        ({"query": "a", "k": 0}, "k: "),
        ({"query": "a", "top_k": 1.5}, "top_k: "),
        ({"query": "a", "k": True}, "k: expected a whole number"),
        ({"query": "a", "topk": "3.5"}, "topk: "),
        ({"query": "a", "topk": "three"}, "topk: "),
        ({"query": "a", "return_scores": 2}, "return_scores: "),
        ({"query": "a", "topk": [3]}, "topk: "),
        ({"query": "a", "topk": 3, "k": 2}, "topk and k ask for different numbers"),
        ({"query": "a", "k": 3, "top_k": 1}, "k and top_k ask for different numbers"),
        ({"query": "a", "top_n": 3}, "top_n: unknown field"),
        ({"queries": ["a"], "topK": 3}, "topK: unknown field; did you mean topk?"),
        ({"queries": ["a"], "return_score": True}, "did you mean return_scores?"),
        ({"query": "a", "filter": {"year": 1999}}, "filter: unknown field (known: queries, query"),
        ({"query": "a", "x" * 5000 + "\n": 1}, "xxx: unknown field"),
    ],
)
def test_malformed_bodies_are_422_with_one_sentence(url: str, body: object, message: str) -> None:
    answer = _post(url, body)
    assert answer.status_code == 422
    detail = answer.json()["detail"]
    assert message in detail
    assert "\n" not in detail
    assert len(detail) < 250


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"",
        b"\xff\xfe",
        b'{"query": "\xe9"}',
        b'{"query": "\\ud800"}',
        b'{"query": "a\x00b"}',
        b"[" * 9999,
    ],
)
def test_what_is_not_json_in_utf8_is_422(url: str, raw: bytes) -> None:
    answer = httpx.post(f"{url}/retrieve", content=raw, trust_env=False)
    assert answer.status_code == 422
    assert "Invalid JSON" in answer.json()["detail"]


def test_the_content_type_does_not_matter(url: str) -> None:
    """`curl -d` says it sends a form."""
    for kind in ({}, {"Content-Type": "application/x-www-form-urlencoded"}):
        answer = httpx.post(
            f"{url}/retrieve", content=b'{"query": "hill"}', headers=kind, trust_env=False
        )
        assert answer.json() == {"result": [[PASSAGES[2]]]}


def test_empty_and_overlong_queries_fail_alone(url: str) -> None:
    answer = _post(url, {"queries": ["hill", "", " \n", "x" * 201], "topk": 1})
    assert answer.status_code == 200
    assert answer.json() == {
        "result": [[PASSAGES[2]], [], [], []],
        "errors": [
            None,
            "query: empty",
            "query: empty",
            "query: expected at most 200 characters, got 201",
        ],
    }
    assert _post(url, {"query": ""}).json() == {"result": [[]], "errors": ["query: empty"]}


def test_healthz_says_what_is_served(url: str, searcher: Searcher, tmp_path: Path) -> None:
    answer = httpx.get(f"{url}/healthz", trust_env=False).json()
    assert {name: answer[name] for name in ("status", "kind", "passages", "k", "encoder")} == {
        "status": "ok", "kind": "bm25", "passages": 3, "k": 2, "encoder": None,
    }  # fmt: skip
    assert answer["parameters"] == searcher.manifest["parameters"]
    with serving(small_searcher(tmp_path)) as copy:  # the same corpus elsewhere: the same index
        assert httpx.get(f"{copy}/healthz", trust_env=False).json()["index"] == answer["index"]


def test_other_paths_and_methods_are_refused(url: str) -> None:
    assert httpx.get(f"{url}/retrieve", trust_env=False).status_code == 405
    assert httpx.get(f"{url}/elsewhere", trust_env=False).status_code == 404
    schema = httpx.get(f"{url}/openapi.json", trust_env=False).json()
    assert {"/retrieve", "/healthz", "/readyz"} <= set(schema["paths"])
    assert set(schema["paths"]["/retrieve"]["post"]["responses"]) >= {
        "200",
        "401",
        "413",
        "415",
        "422",
        "429",
        "503",
    }


def test_a_failing_query_fails_alone() -> None:
    with serving(Scripted()) as address:
        answer = _post(address, {"queries": ["x", "bad", "y"], "topk": 1, "return_scores": False})
    assert answer.status_code == 200
    assert answer.json() == {
        "result": [[{"id": "0", "contents": "x"}], [], [{"id": "0", "contents": "y"}]],
        "errors": [None, "RuntimeError: cannot read this", None],
    }


def test_a_score_that_json_cannot_carry_is_an_error_of_its_query() -> None:
    class Odd:
        blocking = False

        def describe(self) -> RetrieverInfo:
            return RetrieverInfo()

        def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
            return [SearchResult((Hit("1", query, float(query)),)) for query in queries]

    with serving(Odd()) as address:
        answer = _post(address, {"queries": ["nan", "0.1"], "topk": 1, "return_scores": True})
    assert answer.json()["errors"] == ["a score is not a finite number", None]
    assert answer.json()["result"][1][0]["score"] == 0.1


def test_an_idle_server_answers_at_once_and_a_busy_one_gathers_batches() -> None:
    retriever = Scripted()
    with serving(retriever, max_batch=16) as address, ThreadPoolExecutor(20) as pool:
        retriever.gate.clear()
        first = pool.submit(_post, address, {"query": "first", "topk": 1})
        assert retriever.entered.wait(20)
        others = [
            pool.submit(_post, address, {"query": f"q{i}", "topk": 1 + i // 18}) for i in range(19)
        ]
        wait_for_metric(address, "tspo_waiting_queries 19.0")
        retriever.gate.set()
        assert first.result().json() == {"result": [[{"id": "0", "contents": "first"}]]}
        for i, other in enumerate(others):
            assert [hit["contents"] for hit in other.result().json()["result"][0]] == [f"q{i}"] * (
                1 + i // 18
            )
    assert retriever.batches[0] == ["first"]
    sizes = [len(batch) for batch in retriever.batches[1:]]
    assert sum(sizes) == 19
    assert max(sizes) <= 16
    assert len(sizes) <= 4, "18 queries with one k and one with another, at most 16 at once"
    assert retriever.threads == {"index-owner"}


def test_repeated_queries_are_searched_once() -> None:
    retriever = Scripted()
    with serving(retriever) as address:
        once = _post(address, {"queries": ["a", "b", "a"], "topk": 2, "return_scores": True}).json()
        again = _post(address, {"queries": ["b", "a"], "topk": 2, "return_scores": False}).json()
        _post(address, {"query": "a", "topk": 3})
        text = httpx.get(f"{address}/metrics", trust_env=False).text
    assert retriever.batches == [["a", "b"], ["a"]], "another k is another question"
    assert once["result"][0] == once["result"][2]
    assert again["result"] == [[hit["document"] for hit in once["result"][at]] for at in (1, 0)]
    for line in (('tspo_queries_total{source="cached"} '
                 '2.0'), 'tspo_queries_total{source="shared"} 1.0',
                 'tspo_queries_total{source="searched"} '
                 '3.0', 'tspo_requests_total{status="200"} 3.0'):  # fmt: skip
        assert line in text.splitlines()


def test_clients_that_ask_the_same_at_the_same_time_share_one_search() -> None:
    retriever = Scripted()
    retriever.gate.clear()
    with serving(retriever) as address, ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(_post, address, {"query": "same"}) for _ in range(8)]
        wait_for_metric(address, 'tspo_queries_total{source="shared"} 7.0')
        retriever.gate.set()
        assert {answer.result().text for answer in asked} == {asked[0].result().text}
    assert retriever.batches == [["same"]]


def test_errors_are_not_cached() -> None:
    retriever = Scripted()
    with serving(retriever) as address:
        for _ in range(2):
            assert _post(address, {"query": "bad"}).json()["errors"] == [
                "RuntimeError: cannot read this"
            ]
    assert retriever.batches == [["bad"], ["bad"]]


def test_it_is_alive_before_it_is_ready(searcher: Searcher) -> None:
    gate = threading.Event()

    def open_slowly() -> Retriever:
        assert gate.wait(20)
        return searcher

    with TestClient(create_app(open_slowly)) as client:
        assert client.get("/healthz").json() == {"status": "opening"}
        for answer in (client.get("/readyz"), client.post("/retrieve", json={"query": "hill"})):
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "1"
        gate.set()
        while client.get("/readyz").status_code != 200:
            time.sleep(0.001)
        assert client.post("/retrieve", json={"query": "hill", "topk": 1}).json() == {
            "result": [[PASSAGES[2]]]
        }


def test_a_thousand_clients_get_the_answers_of_one(searcher: Searcher) -> None:
    words = ("lake", "hill", "blue", "north", "town", "naïve", "notes", "by")
    queries = [f"{a} {b}" for a in words for b in words]

    async def ask(client: httpx.AsyncClient, at: int, address: str) -> tuple[str, int, Any]:
        query = queries[at % len(queries)]
        body = {"queries": [query], "topk": 1 + at % 3, "return_scores": True}
        answer = await client.post(f"{address}/retrieve", json=body)
        return query, answer.status_code, answer.json()

    async def everybody(address: str) -> list[tuple[str, int, Any]]:
        # A thousand connections in pools of fifty: httpx looks at a whole pool for every request.
        limits = httpx.Limits(max_connections=50)
        async with AsyncExitStack() as stack:
            pools = [
                await stack.enter_async_context(
                    httpx.AsyncClient(limits=limits, timeout=60, trust_env=False, verify=False)
                )
                for _ in range(20)
            ]
            return await asyncio.gather(*(ask(pools[at % 20], at, address) for at in range(1000)))

    with serving(searcher, cache_bytes=2000) as address:
        answers = asyncio.run(everybody(address))
    for at, (query, status, answer) in enumerate(answers):
        hits = searcher.search([query], 1 + at % 3)[0].hits
        assert status == 200
        assert answer == {
            "result": [[{"document": _document(hit), "score": hit.score} for hit in hits]]
        }


def test_a_port_in_use_is_a_missing_resource() -> None:
    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(MissingResourceError, match=f"127.0.0.1:{port}: address already in use"):
            listen("127.0.0.1", port)
    with pytest.raises(MissingResourceError, match=r"cannot listen on no\.such\.host\.invalid"):
        listen("no.such.host.invalid", 0)


def test_loopback_is_told_from_other_addresses() -> None:
    for host, here in (("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False)):
        with listen(host, 0) as bound:
            assert is_loopback(bound) is here
