"""The service on a real server, asked by hand in each dialect and by the client."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from tspo_cli.errors import InvalidInputError, MissingResourceError, RemoteServiceError
from tspo_cli.retrieval.client import HttpRetriever
from tspo_cli.retrieval.index import Searcher, build_index, open_index
from tspo_cli.retrieval.service import create_app, listen
from tspo_cli.retrieval.types import Hit, Retriever, SearchResult

PASSAGES = [
    {"id": "n1", "contents": '"Blue Lake"\nThe lake lies in the north.'},
    {"id": "s2", "contents": '"Südstadt"\nA "town" by the lake — naïve 日本語.'},
    {"id": "u3", "contents": '""\nUntitled notes on lake and hill'},
]
QUERIES = ["blue lake", "hill", "zebra", "", "town\nby \ud800 lake"]


@contextmanager
def serving(retriever: Retriever, **limits: int) -> Iterator[str]:
    bound = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(create_app(retriever, **limits), log_level="warning"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    while not server.started:
        assert thread.is_alive()
        thread.join(0.01)
    yield f"http://127.0.0.1:{bound.getsockname()[1]}"
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    folder = tmp_path_factory.mktemp("service")
    (folder / "corpus.jsonl").write_text("".join(json.dumps(passage) + "\n" for passage in PASSAGES))
    build_index(folder / "corpus.jsonl", folder / "index")
    return open_index(folder / "index")


@pytest.fixture(scope="module")
def url(searcher: Searcher) -> Iterator[str]:
    with serving(searcher, default_k=2, max_k=5, max_queries=300) as address:
        yield address


def _post(url: str, body: object) -> httpx.Response:
    return httpx.post(f"{url}/retrieve", json=body, trust_env=False)


def test_dialect_a_wraps_documents_with_scores(url: str, searcher: Searcher) -> None:
    answer = _post(url, {"queries": ["blue lake", "zebra"], "topk": 3, "return_scores": True})
    assert answer.status_code == 200
    expected = [{"document": _document(hit), "score": hit.score} for hit in searcher.search(["blue lake"], 3)[0].hits]
    assert answer.json() == {"result": [expected, []]}
    assert expected[0]["document"] == PASSAGES[0]


def test_dialect_b_gives_bare_documents(url: str) -> None:
    for body in ({"queries": ["hill"], "topk": 1, "return_scores": False}, {"queries": ["hill"], "topk": 1}):
        assert _post(url, body).json() == {"result": [[PASSAGES[2]]]}


def test_dialect_c_takes_one_query(url: str) -> None:
    many = _post(url, {"queries": ["lake"], "topk": 2, "return_scores": True})
    one = _post(url, {"query": "lake", "topk": 2, "return_scores": True})
    assert one.json() == many.json()
    assert len(one.json()["result"]) == 1
    assert _post(url, {"query": "hill", "return_scores": False}).json() == {"result": [[PASSAGES[2]]]}


def test_topk_may_be_null_or_left_out(url: str) -> None:
    for body in ({"queries": ["lake"], "topk": None}, {"queries": ["lake"]}):
        assert len(_post(url, body).json()["result"][0]) == 2
    assert _post(url, {"queries": []}).json() == {"result": []}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, 'either "queries"'),
        ({"queries": ["a"], "query": "a"}, 'either "queries"'),
        ({"queries": "lake"}, "queries: "),
        ({"queries": ["a", 3]}, "queries.1: "),
        ({"query": ["a"]}, "query: "),
        ({"queries": ["a"], "topk": 0}, "topk: "),
        ({"queries": ["a"], "topk": "many"}, "topk: "),
        ({"queries": ["a"], "topk": 6}, "topk: expected at most 5, got 6"),
        ({"queries": ["a"] * 301}, "queries: expected at most 300 in one request, got 301"),
        ({"queries": ["a"], "return_scores": "perhaps"}, "return_scores: "),
        (["a"], "should be an object"),
    ],
)
def test_malformed_bodies_are_422_with_one_sentence(url: str, body: object, message: str) -> None:
    answer = _post(url, body)
    assert answer.status_code == 422
    assert message in answer.json()["detail"]


def test_a_body_that_is_not_json_is_422(url: str) -> None:
    answer = httpx.post(f"{url}/retrieve", content=b"{", trust_env=False)
    assert answer.status_code == 422
    assert "Invalid JSON" in answer.json()["detail"]


def test_the_content_type_does_not_matter(url: str) -> None:
    """`curl -d` says it sends a form."""
    for kind in ({}, {"Content-Type": "application/x-www-form-urlencoded"}):
        answer = httpx.post(f"{url}/retrieve", content=b'{"query": "hill"}', headers=kind, trust_env=False)
        assert answer.json() == {"result": [[PASSAGES[2]]]}


def test_healthz_says_what_is_served(url: str) -> None:
    answer = httpx.get(f"{url}/healthz", trust_env=False)
    assert answer.json() == {"status": "ok", "kind": "bm25", "passages": 3, "k": 2}


def test_the_client_equals_the_searcher(url: str, searcher: Searcher) -> None:
    client = HttpRetriever([url], timeout=10, retries=0)
    client.check()
    assert client.blocking is True
    many = QUERIES * 110  # more than one request's worth
    assert client.search(many, 3) == searcher.search(many, 3)
    assert client.search([], 3) == []
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda query: client.search([query], 2)[0], QUERIES)) == searcher.search(QUERIES, 2)
    client.close()


@pytest.mark.parametrize("ending", ["", "/", "/retrieve", "/retrieve/"])
def test_the_client_takes_base_urls(url: str, ending: str) -> None:
    assert HttpRetriever([url + ending], timeout=10, retries=0).search(["hill"], 1)[0].hits[0].id == "u3"


def test_the_client_equals_the_searcher_on_real_questions(real_data: Path, tmp_path: Path) -> None:
    from tspo_cli.data.readers import read_questions

    build_index(real_data / "bamboogle" / "corpus.jsonl.gz", tmp_path / "index")
    questions = [question.question for question in read_questions(real_data / "bamboogle" / "questions.jsonl.gz")]
    searcher = open_index(tmp_path / "index")
    with serving(searcher) as address:
        assert HttpRetriever([address], timeout=30, retries=0).search(questions, 5) == searcher.search(questions, 5)


class Moody:
    """Fails on a query that says so, alone or with others."""

    blocking = False

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        if any("bad" in query for query in queries):
            raise RuntimeError("cannot read this")
        return [SearchResult((Hit("1", query, 1.0),)) for query in queries]


def test_a_failing_query_fails_alone() -> None:
    with serving(Moody()) as address:
        answer = _post(address, {"queries": ["x", "bad", "y"], "return_scores": False})
        assert answer.status_code == 200
        assert answer.json() == {
            "result": [[{"id": "1", "contents": "x"}], [], [{"id": "1", "contents": "y"}]],
            "errors": [None, "RuntimeError: cannot read this", None],
        }
        results = HttpRetriever([address], timeout=10, retries=0).search(["x", "bad"], 1)
    assert [result.error for result in results] == [None, "RuntimeError: cannot read this"]
    assert results[0].hits == (Hit("1", "x", 1.0),)


Answers = Callable[[list[tuple[int, Any]]], AbstractContextManager[tuple[str, list[dict[str, Any]]]]]


@pytest.fixture
def scripted() -> Answers:
    """A server that gives the listed (status, body) answers in turn, and the bodies it was sent."""

    @contextmanager
    def serve(answers: list[tuple[int, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        seen: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                seen.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                status, body = answers[min(len(seen), len(answers)) - 1]
                self.send_response(status)
                self.end_headers()
                self.wfile.write(body if isinstance(body, bytes) else json.dumps(body).encode())

            def log_message(self, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}", seen
        server.shutdown()
        thread.join()
        server.server_close()

    return serve


ONE = {"result": [[{"document": {"id": "7", "contents": '"T"\nx'}, "score": 2.5}]]}


def _document(hit: Hit) -> dict[str, str]:
    return {"id": hit.id, "contents": hit.contents}


def test_the_client_speaks_dialect_a(scripted: Answers) -> None:
    with scripted([(200, ONE)]) as (url, seen):
        assert HttpRetriever([url], timeout=5, retries=0).search(["q"], 4) == [SearchResult((Hit("7", '"T"\nx', 2.5),))]
    assert seen == [{"queries": ["q"], "topk": 4, "return_scores": True}]


@pytest.mark.parametrize(
    "record",
    [
        {"document": {"contents": '"T"\nx'}},
        {"id": 7, "contents": '"T"\nx'},
        {"document": {"id": "7", "title": "T", "text": "x"}, "score": 1},
    ],
)
def test_the_client_reads_the_documents_of_other_servers(scripted: Answers, record: dict[str, Any]) -> None:
    with scripted([(200, {"result": [[record]]})]) as (url, _):
        hit = HttpRetriever([url], timeout=5, retries=0).search(["q"], 1)[0].hits[0]
    assert (hit.title, hit.text) == ("T", "x")
    assert hit.id in ("", "7")


def test_passing_failures_are_retried(scripted: Answers) -> None:
    with scripted([(500, {}), (429, {}), (503, {}), (200, ONE)]) as (url, seen):
        client = HttpRetriever([url], timeout=5, retries=3, first_wait=0.001)
        assert client.search(["q"], 1)[0].hits[0].id == "7"
    assert len(seen) == 4


def test_retries_end(scripted: Answers) -> None:
    with scripted([(503, {})]) as (url, seen):
        results = HttpRetriever([url], timeout=5, retries=2, first_wait=0.001).search(["q", "r"], 1)
    assert len(seen) == 3
    assert [result.error for result in results] == [f"retriever {url}/retrieve: status 503 after 3 attempts"] * 2


def test_a_refused_request_is_not_repeated(scripted: Answers) -> None:
    with scripted([(422, {"detail": "topk: too many"})]) as (url, seen):
        error = HttpRetriever([url], timeout=5, retries=3, first_wait=0.001).search(["q"], 1)[0].error
    assert len(seen) == 1
    assert error is not None
    assert "status 422" in error
    assert "topk: too many" in error


@pytest.mark.parametrize(
    "body", [b"<html>hello</html>", {"hits": []}, {"result": []}, [1], {"result": [[{"score": 1.0}]]}, {"result": [3]}]
)
def test_another_kind_of_server_is_recognised(scripted: Answers, body: object) -> None:
    with scripted([(200, body)]) as (url, _):
        client = HttpRetriever([url], timeout=5, retries=0)
        with pytest.raises(RemoteServiceError, match=r"^retriever http://127.0.0.1:\d+/retrieve: ") as raised:
            client.check()
        assert client.search(["q"], 1) == [SearchResult(error=str(raised.value))]
    assert "\n" not in str(raised.value)


def _free_url() -> str:
    with listen("127.0.0.1", 0) as bound:
        return f"http://127.0.0.1:{bound.getsockname()[1]}"


def test_an_unreachable_server_is_one_clear_line() -> None:
    client = HttpRetriever([_free_url()], timeout=5, retries=1, first_wait=0.001)
    with pytest.raises(RemoteServiceError, match="is the server running") as raised:
        client.check()
    assert "\n" not in str(raised.value)
    results = client.search(["a", "b"], 1)
    assert len(results) == 2
    assert all(result.hits == () and "after 2 attempts" in (result.error or "") for result in results)


def test_another_server_takes_over(url: str, searcher: Searcher) -> None:
    client = HttpRetriever([_free_url(), url], timeout=5, retries=1, first_wait=0.001)
    for _ in range(4):
        assert client.search(["lake"], 3) == searcher.search(["lake"], 3)


@pytest.mark.parametrize("urls", [[], ["localhost:8000"], ["ftp://host"], ["http://"], ["http://[::1"]])
def test_wrong_urls_are_refused(urls: list[str]) -> None:
    with pytest.raises(InvalidInputError, match="retriever: expected"):
        HttpRetriever(urls, timeout=5, retries=0)


def test_a_port_in_use_is_a_missing_resource() -> None:
    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(MissingResourceError, match=f"127.0.0.1:{port}: address already in use"):
            listen("127.0.0.1", port)
    with pytest.raises(MissingResourceError, match=r"cannot listen on no\.such\.host\.invalid"):
        listen("no.such.host.invalid", 0)
