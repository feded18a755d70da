"""A Qdrant that does not answer is waited for; what it should not send is a failed search."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tspo_cli.config.load_config import load_config
from tspo_cli.config.schema import QdrantConfig
from tspo_cli.errors import RemoteServiceError
from tspo_cli.retrieval.open_retriever import open_retriever
from tspo_cli.retrieval.remote.patience import Patience, ServiceUnavailableError
from tspo_cli.retrieval.remote.qdrant import QdrantRetriever, open_client, sparse_vector
from tspo_cli.rollout.limit_warnings import waiting_warnings

pytest.importorskip("qdrant_client")

POINT = {"id": 7, "version": 0, "score": 1.5, "payload": {"id": "p7", "contents": "a lake"}}
Reply = tuple[int, Any]


def points(**changes: Any) -> dict[str, Any]:
    return {"result": [{"points": [POINT | changes]}], "status": "ok", "time": 0.0}


class Scripted:
    """Answers with the replies in turn, the last one for ever. None: hangs up."""

    def __init__(self, *replies: Reply | None) -> None:
        self.replies, self.asked = list(replies), 0

    def next(self, body: str) -> Reply | None:
        self.asked += 1
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]


class Picky(Scripted):
    """Fails at every request that has a query with this word, whatever else is in it."""

    def __init__(self, word: str) -> None:
        super().__init__((500, {}))
        self.index = str(sparse_vector(Counter([word])).indices[0])

    def next(self, body: str) -> Reply | None:
        if self.index in body:
            return super().next(body)
        answers = [{"points": [POINT]} for _ in json.loads(body)["searches"]]
        return 200, {"result": answers, "status": "ok", "time": 0}


@pytest.fixture
def served() -> Iterator[Any]:
    servers = []

    def serve(*replies: Reply | None, fails_at: str = "") -> tuple[Scripted, str]:
        script = Picky(fails_at) if fails_at else Scripted(*replies)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                reply = script.next(body)
                if reply is None:
                    return
                status, value = reply
                body = value if isinstance(value, bytes | bytearray) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                if status == 429:
                    self.send_header("Retry-After", value.get("after", "0"))
                self.end_headers()
                drops = isinstance(value, bytearray)
                for part in (body[n : n + 1] for n in range(len(body))) if drops else [body]:
                    self.wfile.write(part)
                    time.sleep(0.1 * drops)

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        servers.append(server)
        return script, f"http://user:secret@127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


def retriever(url: str, deadline: float = 20.0, timeout: float = 5.0) -> QdrantRetriever:
    config = QdrantConfig(url=url, collection="c", kind="sparse")
    patience = Patience(deadline, first_wait=0.01)
    client = open_client(url, timeout)
    return QdrantRetriever(
        client, config, None, timeout=timeout, patience=patience, max_passage_chars=20
    )


@pytest.mark.parametrize(
    "fault",
    [
        *((503, {}), (500, b"x"), (502, b"<html>"), (408, {}), None),
        *((429, {}), (429, {"status": {}}), (429, {"after": "Wed, 21 Oct 2026 07:28:00 GMT"})),
    ],
    ids=str,
)
def test_an_outage_is_waited_for(served: Any, fault: Reply | None) -> None:
    script, url = served(fault, fault, (200, points()))
    (result,) = retriever(url).search(["lake"], 1)
    assert (result.error, result.hits[0].id, script.asked) == (None, "p7", 3)


@pytest.mark.parametrize("fault", [(503, {}), (500, b"x"), None], ids=str)
def test_an_outage_for_good_ends_the_command(served: Any, fault: Reply | None) -> None:
    script, url = served(fault)
    started = time.monotonic()
    with pytest.raises(ServiceUnavailableError, match=r"qdrant http://127.*--resume") as caught:
        retriever(url, deadline=0.5).search(["lake"], 1)
    assert caught.value.exit_code == 5
    assert script.asked > 2
    assert 0.3 < time.monotonic() - started < 5
    assert "secret" not in str(caught.value)


def test_an_answer_that_comes_byte_by_byte_ends_in_time(served: Any) -> None:
    _, url = served((200, bytearray(json.dumps(points()).encode())))
    started = time.monotonic()
    with pytest.raises(ServiceUnavailableError, match="timed out"):
        retriever(url, deadline=0.2, timeout=1).search(["lake"], 1)
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "queries", [["poison"], ["lake", "poison"], ["a poison b", "lake", "river", "poison"]], ids=str
)
def test_a_query_at_which_qdrant_fails_is_a_failed_search_alone(
    served: Any, queries: list[str]
) -> None:
    _, url = served(fails_at="poison")
    results = retriever(url, deadline=0.3).search(queries, 1)
    assert ["poison" in query for query in queries] == [bool(one.error) for one in results]
    assert all((one.error or "").endswith("status 500") for one in results if not one.hits)
    assert all(one.hits for one in results if not one.error)


@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_named(served: Any, status: int) -> None:
    script, url = served((status, {"status": {"error": "no key"}}))
    with pytest.raises(ServiceUnavailableError, match="QDRANT_API_KEY"):
        retriever(url).search(["lake"], 1)
    assert script.asked == 1


DEEP = b'{"result": [{"points": [{"id": 1, "version": 0, "score": 1, "payload": {"contents": '
MALFORMED = {
    "no JSON": b"<html>lake</html>",
    "cut": json.dumps(points()).encode()[:40],
    "null": None,
    "no result": {"status": "ok"},
    "a list": [],
    "too few results": {"result": [], "status": "ok", "time": 0},
    "too many results": {"result": [{"points": []}] * 2, "status": "ok", "time": 0},
    "points are text": {"result": [{"points": "lake"}], "status": "ok", "time": 0},
    "no score": {"result": [{"points": [{"id": 1, "version": 0}]}], "status": "ok", "time": 0},
    "score is null": points(score=None),
    "score is NaN": points(score=float("nan")),
    "score is infinite": points(score=float("inf")),
    "no payload": points(payload=None),
    "no contents": points(payload={"id": "p7"}),
    "contents are a number": points(payload={"id": "p7", "contents": 5}),
    "contents are a list": points(payload={"id": "p7", "contents": ["a"]}),
    "too long a passage": points(payload={"id": "p7", "contents": "a" * 21}),
    "an id of another type": points(payload={"id": ["p7"], "contents": "a"}),
    "half a character": json.dumps(points(payload={"id": "p", "contents": "\ud83d"})).encode(),
    "too many hits": {"result": [{"points": [POINT] * 1500}], "status": "ok", "time": 0},
    "deep": DEEP + b"[" * 100_000,
    "bytes that are not UTF-8": b'{"result": "\xff"}',
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_answer_is_a_failed_search_with_a_reason(served: Any, name: str) -> None:
    _, url = served((200, MALFORMED[name]))
    (result,) = retriever(url, deadline=0.3).search(["lake"], 1)
    assert result.hits == ()
    assert (result.error or "").startswith("qdrant http://127.0.0.1:")
    assert len((result.error or "").splitlines()) == 1
    assert "secret" not in (result.error or "")


def test_a_refused_query_is_a_failed_search(served: Any) -> None:
    script, url = served((400, {"status": {"error": "\x1b[31mwrong vector"}}))
    (result,) = retriever(url).search(["lake"], 1)
    assert "status 400" in (result.error or "")
    assert "\x1b" not in (result.error or "")
    assert script.asked == 1


def test_more_hits_than_asked_for_are_cut(served: Any) -> None:
    _, url = served((200, {"result": [{"points": [POINT] * 5}], "status": "ok", "time": 0}))
    (result,) = retriever(url).search(["lake"], 2)
    assert (result.error, len(result.hits)) == (None, 2)


def test_settings_of_the_retriever_hold_for_qdrant() -> None:
    settings = ["qdrant.url=http://127.0.0.1:9", "qdrant.collection=c", "qdrant.kind=sparse"]
    config = load_config([], [f"retriever.{text}" for text in [*settings, "deadline=0.1"]])
    with pytest.raises(RemoteServiceError, match=r"qdrant http://127\.0\.0\.1:9: "):
        open_retriever(config.retriever)


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ([], ""),
        (["rollout.turn_deadline=102"], ""),
        (["rollout.turn_deadline=60"], "turn_deadline: after 60 s"),
        (["retriever.deadline=300"], "turn_deadline: after 120 s"),
        (["rollout.trajectory_deadline=90"], "trajectory_deadline: after 90 s"),
        (["rollout.turn_deadline=60", "retriever.deadline=20"], ""),
    ],
)
@pytest.mark.parametrize("server", ["url=http://h", "qdrant.url=http://h", "index=i"])
def test_deadlines_that_hide_an_outage_are_announced(
    server: str, settings: list[str], warned: str
) -> None:
    config = load_config([], [f"retriever.{server}", *settings])
    said = list(waiting_warnings(config))
    assert len(said) == (bool(warned) and server != "index=i")
    assert all(f"rollout.{warned}" in text for text in said)
