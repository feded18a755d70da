"""The rollout client against real services, and against servers of all kinds of behaviour."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.retrieval.server.live_server import Scripted, serving, small_searcher
from tests.stand_ins import KINDS, stand_in
from tspo_cli.errors import InvalidInputError, MissingResourceError, RemoteServiceError
from tspo_cli.retrieval.index.build_index import build_index
from tspo_cli.retrieval.index.searcher import Searcher, open_index
from tspo_cli.retrieval.remote.http_client import HttpRetriever
from tspo_cli.retrieval.remote.patience import ServiceUnavailableError
from tspo_cli.retrieval.server.listen import listen
from tspo_cli.retrieval.types import Hit, RetrieverInfo, SearchResult
from tspo_cli.text.access_token import RETRIEVER_TOKEN, read_token
from tspo_cli.work_limits import at_most

QUERIES = ["blue lake", "hill", "zebra", "LAKE  north", "town\nby \ud800 lake"]


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    return small_searcher(tmp_path_factory.mktemp("client"))


@pytest.fixture(scope="module")
def url(searcher: Searcher) -> Iterator[str]:
    with serving(searcher) as address:
        yield address


def test_the_client_equals_the_searcher(url: str, searcher: Searcher) -> None:
    client = HttpRetriever([url], timeout=10, retries=0)
    client.check()
    assert client.blocking is True
    many = QUERIES * 110  # more than one request's worth
    assert client.search(many, 3) == searcher.search(many, 3)
    assert client.search([], 3) == []
    with ThreadPoolExecutor(8) as pool:
        assert list(
            pool.map(lambda query: client.search([query], 2)[0], QUERIES)
        ) == searcher.search(QUERIES, 2)
    client.close()


@pytest.mark.parametrize(
    "ending", ["", "/", "/retrieve", "/retrieve/", "?key=a/b", "/?key=a", "/retrieve?key=a/", "#x"]
)
def test_the_client_takes_base_urls(url: str, ending: str) -> None:
    assert (
        HttpRetriever([url + ending], timeout=10, retries=0).search(["hill"], 1)[0].hits[0].id
        == "u3"
    )
    assert HttpRetriever([url + ending]).describe().kind == "bm25"


def test_the_client_equals_the_searcher_on_real_questions(real_data: Path, tmp_path: Path) -> None:
    from tspo_cli.data.readers import read_questions

    build_index(real_data / "bamboogle" / "corpus.jsonl.gz", tmp_path / "index")
    questions = [
        question.question
        for question in read_questions(real_data / "bamboogle" / "questions.jsonl.gz")
    ]
    searcher = open_index(tmp_path / "index")
    with serving(searcher) as address:
        assert HttpRetriever([address], timeout=30, retries=0).search(
            questions, 5
        ) == searcher.search(questions, 5)


Answers = Callable[..., AbstractContextManager[tuple[str, list[dict[str, Any]]]]]


@pytest.fixture
def scripted() -> Answers:
    """A server that gives the listed (status, body) answers in turn, and the bodies it was sent.

    It takes `delay` seconds before every answer, `pause` between its bytes, and sends `headers`
    with it.
    """

    @contextmanager
    def serve(
        answers: list[tuple[int, Any]],
        *,
        delay: float = 0.0,
        pause: float = 0.0,
        headers: dict[str, str] | None = None,
    ) -> Iterator[tuple[str, list[dict[str, Any]]]]:
        seen: list[dict[str, Any]] = []

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                seen.append(
                    body
                    | (
                        {"authorization": self.headers["Authorization"]}
                        if "Authorization" in self.headers
                        else {}
                    )
                )
                status, body = answers[min(len(seen), len(answers)) - 1]
                time.sleep(delay)
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.end_headers()
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                with suppress(
                    BrokenPipeError, ConnectionResetError
                ):  # the client may have had enough
                    for piece in (
                        [content]
                        if not pause
                        else (content[at : at + 1] for at in range(len(content)))
                    ):
                        self.wfile.write(piece)
                        self.wfile.flush()
                        time.sleep(pause)

            def do_GET(self) -> None:
                self.send_error(404)

            def log_message(self, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}", seen
        finally:
            server.shutdown()
            thread.join()
            server.server_close()

    return serve


ONE = {"result": [[{"document": {"id": "7", "contents": '"T"\nx'}, "score": 2.5}]]}


def test_the_client_speaks_dialect_a(scripted: Answers) -> None:
    with scripted([(200, ONE)]) as (url, seen):
        assert HttpRetriever([url], timeout=5, retries=0).search(["q"], 4) == [
            SearchResult((Hit("7", '"T"\nx', 2.5),))
        ]
    assert seen == [{"queries": ["q"], "topk": 4, "return_scores": True}]


@pytest.mark.parametrize(
    "record",
    [
        {"document": {"contents": '"T"\nx'}},
        {"id": 7, "contents": '"T"\nx'},
        {"document": {"id": "7", "title": "T", "text": "x"}, "score": 1},
    ],
)
def test_the_client_reads_the_documents_of_other_servers(
    scripted: Answers, record: dict[str, Any]
) -> None:
    with scripted([(200, {"result": [[record]]})]) as (url, _):
        hit = HttpRetriever([url], timeout=5, retries=0).search(["q"], 1)[0].hits[0]
    assert (hit.title, hit.text) == ("T", "x")
    assert hit.id in ("", "7")


def test_of_a_server_that_ignores_topk_the_first_hits_count(scripted: Answers) -> None:
    records = [{"id": str(number), "contents": "x"} for number in range(4)]
    with scripted([(200, {"result": [records]})]) as (url, _):
        client = HttpRetriever([url], timeout=5, retries=0)
        assert [hit.id for hit in client.search(["q"], 3)[0].hits] == ["0", "1", "2"]


def test_passing_failures_are_retried(scripted: Answers) -> None:
    with scripted([(500, {}), (429, {}), (503, {}), (200, ONE)]) as (url, seen):
        client = HttpRetriever([url], timeout=5, retries=3, first_wait=0.001)
        assert client.search(["q"], 1)[0].hits[0].id == "7"
    assert len(seen) == 4


def test_retries_end(scripted: Answers) -> None:
    with scripted([(503, {})]) as (url, seen), pytest.raises(ServiceUnavailableError) as raised:
        HttpRetriever([url], timeout=5, retries=2, first_wait=0.001).search(["q", "r"], 1)
    assert len(seen) == 3
    assert str(raised.value) == (
        f"retriever {url}/retrieve: status 503; waited 0 s (3 attempts); start the server, then go "
        "on with --resume"
    )


def test_by_default_the_deadline_alone_ends_the_attempts(scripted: Answers) -> None:
    with scripted([*[(503, {})] * 12, (200, ONE)]) as (url, seen):
        assert HttpRetriever([url], first_wait=0.001).search(["q"], 1)[0].hits[0].id == "7"
    assert len(seen) == 13


def test_a_refused_request_is_not_repeated(scripted: Answers) -> None:
    with scripted([(422, {"detail": "topk: too many"})]) as (url, seen):
        error = (
            HttpRetriever([url], timeout=5, retries=3, first_wait=0.001).search(["q"], 1)[0].error
        )
    assert len(seen) == 1
    assert error is not None
    assert "status 422" in error
    assert "topk: too many" in error


@pytest.mark.parametrize(
    "body",
    [
        b"<html>hello</html>",
        {"hits": []},
        {"result": []},
        [1],
        {"result": [[{"score": 1.0}]]},
        {"result": [3]},
        {"result": [{}]},
        {"result": [[{"contents": ["a", "b"]}]]},
    ],
)
def test_another_kind_of_server_is_recognised(scripted: Answers, body: object) -> None:
    with scripted([(200, body)]) as (url, _):
        client = HttpRetriever([url], timeout=5, retries=0)
        with pytest.raises(
            RemoteServiceError, match=r"^retriever http://127.0.0.1:\d+/retrieve: "
        ) as raised:
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
    with pytest.raises(ServiceUnavailableError, match=r"2 attempts\); start the server") as waited:
        client.search(["a", "b"], 1)
    assert waited.value.exit_code == 5


@pytest.mark.parametrize("trouble", [(500, {}), (502, {}), (200, "<html>"), (404, {})])
def test_a_server_that_fails_once_at_the_start_is_asked_again(
    scripted: Answers, trouble: tuple[int, object]
) -> None:
    with scripted([trouble, (200, ONE)]) as (url, _):
        HttpRetriever([url], timeout=5, first_wait=0.001).check()


def test_another_server_takes_over(url: str, searcher: Searcher) -> None:
    client = HttpRetriever([_free_url(), url], timeout=5, retries=1, first_wait=0.001)
    for _ in range(4):
        assert client.search(["lake"], 3) == searcher.search(["lake"], 3)


@pytest.mark.parametrize(
    "urls", [[], ["localhost:8000"], ["ftp://host"], ["http://"], ["http://[::1"]]
)
def test_wrong_urls_are_refused(urls: list[str]) -> None:
    with pytest.raises(InvalidInputError, match="retriever: expected"):
        HttpRetriever(urls, timeout=5, retries=0)


def test_the_deadline_ends_waiting_and_retrying(scripted: Answers) -> None:
    with scripted([(503, {})], headers={"Retry-After": "3600"}) as (url, seen):
        start = time.monotonic()
        with pytest.raises(ServiceUnavailableError, match="status 503; waited 0 s"):
            HttpRetriever([url], deadline=0.4, first_wait=0.001).search(["q"], 1)
        assert 0.3 < time.monotonic() - start < 3
    assert len(seen) == 2, "not before the server's time, but once more before the deadline"


def test_retry_after_is_heeded(scripted: Answers) -> None:
    with scripted([(429, {}), (200, ONE)], headers={"Retry-After": "1"}) as (url, seen):
        start = time.monotonic()
        assert (
            HttpRetriever([url], timeout=5, retries=1, first_wait=0.001).search(["q"], 1)[0].error
            is None
        )
        assert time.monotonic() - start >= 1
    assert len(seen) == 2


def test_a_server_that_hangs_or_dribbles_is_given_up(scripted: Answers) -> None:
    for slowness in ({"delay": 1.0}, {"pause": 0.05}):
        with scripted([(200, ONE)], **slowness) as (url, _):
            start = time.monotonic()
            with pytest.raises(ServiceUnavailableError, match="no answer in time"):
                HttpRetriever([url], timeout=0.2, deadline=0.3).search(["q"], 1)
            assert time.monotonic() - start < 2.5


def test_no_more_requests_are_under_way_than_allowed(searcher: Searcher) -> None:
    under_way, most = 0, 0
    lock = threading.Lock()

    class Counting(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            nonlocal under_way, most
            with lock:
                under_way += 1
                most = max(most, under_way)
            self.rfile.read(int(self.headers["Content-Length"]))
            time.sleep(0.02)
            with lock:
                under_way -= 1
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(ONE).encode())

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Counting) as server, ThreadPoolExecutor(12) as pool:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        client = HttpRetriever(
            [f"http://127.0.0.1:{server.server_address[1]}"], timeout=10, retries=0, concurrency=3
        )
        results = list(pool.map(lambda _: client.search(["q"], 1)[0].error, range(24)))
        server.shutdown()
    assert results == [None] * 24
    assert most == 3


def test_the_client_sends_its_token(scripted: Answers, searcher: Searcher) -> None:
    with scripted([(200, ONE)]) as (url, seen):
        HttpRetriever([url], timeout=5, retries=0, token="0123456789abcdef").search(["q"], 1)
    assert seen[0]["authorization"] == "Bearer 0123456789abcdef"
    with serving(searcher, token="0123456789abcdef") as address:
        assert (
            HttpRetriever([address], retries=0, token="0123456789abcdef")
            .search(["hill"], 1)[0]
            .error
            is None
        )
        with pytest.raises(ServiceUnavailableError, match="status 401"):
            HttpRetriever([address], retries=3).search(["hill"], 1)


def test_tokens_come_from_a_file_or_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TSPO_RETRIEVER_TOKEN", raising=False)
    assert read_token(RETRIEVER_TOKEN) == ""
    monkeypatch.setenv("TSPO_RETRIEVER_TOKEN", "from-the-environment")
    assert read_token(RETRIEVER_TOKEN) == "from-the-environment"
    (tmp_path / "token").write_text("from-a-file-instead\n")
    assert read_token(RETRIEVER_TOKEN, str(tmp_path / "token")) == "from-a-file-instead"
    for wrong in ("short", "", "with spaces between words", "naïve-naïve-naïve-naïve"):
        (tmp_path / "token").write_text(wrong)
        with pytest.raises(
            InvalidInputError, match="16 or more printable ASCII characters"
        ) as raised:
            read_token(RETRIEVER_TOKEN, str(tmp_path / "token"))
        assert not wrong or wrong not in str(raised.value)
    with pytest.raises(MissingResourceError, match="no such file"):
        read_token(RETRIEVER_TOKEN, str(tmp_path / "nowhere"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_comes_from_a_file_alone(tmp_path: Path, kind: str) -> None:
    """A pipe was waited for without a word, and a device read until memory ran out."""
    stand_in(tmp_path / "token", kind)
    with at_most(20), pytest.raises(InvalidInputError, match=f"expected a file, got {kind}"):
        read_token(RETRIEVER_TOKEN, str(tmp_path / "token"))


def test_replicas_must_serve_the_same_index(url: str, searcher: Searcher, tmp_path: Path) -> None:
    with serving(searcher) as twin:
        HttpRetriever([url, twin], timeout=10, retries=0).check()
    (tmp_path / "other.jsonl").write_text('{"id": "1", "contents": "lake"}\n')
    build_index(tmp_path / "other.jsonl", tmp_path / "index")
    with (
        serving(open_index(tmp_path / "index")) as stranger,
        pytest.raises(InvalidInputError, match="different indexes"),
    ):
        HttpRetriever([url, stranger], timeout=10, retries=0).check()


class Described(Scripted):
    """A scripted retriever of an index that it describes."""

    def __init__(self, **facts: Any) -> None:
        super().__init__()
        self.info = RetrieverInfo(**facts)

    def describe(self) -> RetrieverInfo:
        return self.info


@pytest.mark.parametrize(
    "other",
    [
        {"index_digest": "b" * 64},
        {"index_digest": "a" * 64, "search": {"depth": 5}},
        {"index_digest": "a" * 64, "reranker_digest": "c" * 64},
    ],
    ids=["index", "settings", "reranker"],
)
def test_another_index_behind_the_same_url_is_refused(other: dict[str, Any]) -> None:
    """A server came back with another corpus, and its passages became those of the run."""
    first = {"index_digest": "a" * 64}
    with serving(Described(**first)) as url:
        retriever = HttpRetriever([url], timeout=10, retries=0)
        retriever.check()
        before = retriever.search(["lake"], 1)
    port = int(url.rpartition(":")[2])
    with (
        serving(Described(**other), port=port),
        pytest.raises(InvalidInputError, match=r"it serves another index.*--resume"),
    ):
        retriever.search(["lake"], 1)
    with serving(Described(**first), port=port):
        assert retriever.search(["lake"], 1) == before
