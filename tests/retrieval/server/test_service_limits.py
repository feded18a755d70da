"""The service beyond its limits: overload, tokens, bodies and heads that are too large or do not
come.
"""

from __future__ import annotations

import gzip
import http.client
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPResponse
from typing import Any

import httpx
import pytest
import uvicorn

from tests.retrieval.server.live_server import Scripted, serving, small_searcher, wait_for_metric
from tspo_cli.errors import InvalidInputError
from tspo_cli.retrieval.index.searcher import Searcher
from tspo_cli.retrieval.server.http_app import ServiceSettings, create_app
from tspo_cli.retrieval.server.listen import GuardedProtocol, listen, server_config
from tspo_cli.retrieval.types import Retriever


@pytest.fixture(scope="module")
def searcher(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    return small_searcher(tmp_path_factory.mktemp("limits"))


@pytest.fixture(scope="module")
def url(searcher: Searcher) -> Iterator[str]:
    with serving(searcher, max_body=20_000) as address:
        yield address


def _post(url: str, body: object, **options: Any) -> httpx.Response:
    return httpx.post(f"{url}/retrieve", json=body, trust_env=False, **options)


def test_overload_is_429_with_retry_after_and_passes() -> None:
    retriever = Scripted()
    with (
        serving(retriever, max_queries=4, max_waiting=4, max_batch=1) as address,
        ThreadPoolExecutor(8) as pool,
    ):
        retriever.gate.clear()
        first = pool.submit(_post, address, {"query": "first"})
        assert retriever.entered.wait(20)
        waiting = [pool.submit(_post, address, {"query": f"w{i}"}) for i in range(4)]
        wait_for_metric(address, "tspo_waiting_queries 4.0")
        refused = _post(address, {"queries": ["x", "y"]})
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert "try again in" in refused.json()["detail"]
        retriever.gate.set()
        assert [request.result().status_code for request in [first, *waiting]] == [200] * 5
        assert _post(address, {"queries": ["x", "y"]}).status_code == 200


def test_queries_that_waited_too_long_are_429_and_not_searched() -> None:
    retriever = Scripted()
    with serving(retriever, max_wait=0.05) as address, ThreadPoolExecutor(2) as pool:
        retriever.gate.clear()
        first = pool.submit(_post, address, {"query": "first"})
        assert retriever.entered.wait(20)
        late = pool.submit(_post, address, {"query": "late"})
        wait_for_metric(address, "tspo_waiting_queries 1.0")
        time.sleep(0.1)
        retriever.gate.set()
        assert (first.result().status_code, late.result().status_code) == (200, 429)
    assert retriever.batches == [["first"]]


def test_settings_under_which_requests_could_never_be_answered_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="max_waiting: expected at least max_queries"):
        ServiceSettings(max_queries=100, max_waiting=99)


def test_a_token_is_required_where_one_is_set(searcher: Searcher) -> None:
    with serving(searcher, token="0123456789abcdef") as address:
        for headers in (
            {},
            {"Authorization": "Bearer 0123456789abcdeX"},
            {"Authorization": "0123456789abcdef"},
            {"Authorization": b"Bearer \xff"},
            {"Authorization": "Basic 0123456789abcdef"},
            {"Authorization": "Bearer 0123456789ABCDEF"},
            {"Authorization": "Bearer0123456789abcdef"},
        ):
            answer = _post(address, {"query": "hill"}, headers=headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
            assert (
                httpx.get(f"{address}/metrics", headers=headers, trust_env=False).status_code == 401
            )
            for path in ("docs", "openapi.json", "redoc", "metrics", "", "elsewhere"):
                answer = httpx.get(f"{address}/{path}", headers=headers, trust_env=False)
                assert answer.status_code == 401, path
            health = httpx.get(f"{address}/healthz", headers=headers, trust_env=False)
            assert health.json() == {"status": "ok"}
            assert httpx.get(f"{address}/readyz", headers=headers, trust_env=False).is_success
        right = {"Authorization": "Bearer 0123456789abcdef"}
        for path in ("docs", "openapi.json", "healthz", "readyz"):
            assert httpx.get(f"{address}/{path}", headers=right, trust_env=False).is_success
        assert "kind" in httpx.get(f"{address}/healthz", headers=right, trust_env=False).json()
        assert _post(address, {"query": "hill"}, headers=right).status_code == 200
        assert httpx.get(f"{address}/metrics", headers=right, trust_env=False).status_code == 200
        assert httpx.get(f"{address}/healthz", trust_env=False).status_code == 200
        for said in ("bearer 0123456789abcdef", "BEARER  0123456789abcdef\t"):
            request = f"GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: {said}\r\n\r\n"
            with _connection(address) as connection:
                connection.sendall(request.encode())
                assert connection.recv(1000).startswith(b"HTTP/1.1 200"), said


def test_a_body_that_does_not_come_is_408(searcher: Searcher) -> None:
    with serving(searcher, body_timeout=0.1) as address, _connection(address) as connection:
        connection.sendall(b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{")
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize("more", [b"", b"Expect: 100-continue\r\n"])
@pytest.mark.parametrize("length", [20_001, 160_000, 10**14])
def test_an_announced_body_that_is_too_large_is_not_waited_for(
    url: str, length: int, more: bytes
) -> None:
    head = b"POST /retrieve HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n"
    with _connection(url) as connection:  # whose timeout of a body is 15 seconds
        connection.settimeout(5)
        connection.sendall(head % (more, length))
        assert connection.recv(1000).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "framing",
    [
        b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n{}",
        b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
    ],
)
def test_what_is_no_http_is_400_in_plain_text(url: str, framing: bytes) -> None:
    with _connection(url) as connection:
        connection.sendall(b"POST /retrieve HTTP/1.1\r\nHost: x\r\n" + framing)
        answer = b"".join(iter(lambda: connection.recv(1000), b""))
        assert answer.startswith(b"HTTP/1.1 400")
        assert b"text/plain" in answer


@pytest.mark.parametrize("start", [b"", b"POST /retrieve HTTP/1.1\r\nHost: x\r\nX-Slow: "])
def test_a_head_that_does_not_come_is_cut_off(
    searcher: Searcher, monkeypatch: pytest.MonkeyPatch, start: bytes
) -> None:
    monkeypatch.setattr(GuardedProtocol, "head_seconds", 0.2)
    with serving(searcher) as address, _connection(address) as connection:
        connection.sendall(start)
        assert _is_cut_off(connection)


def test_a_second_head_on_a_connection_is_watched_too(
    searcher: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(GuardedProtocol, "head_seconds", 0.2)
    body = b'{"query": "hill"}'
    request = b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with serving(searcher) as address, _connection(address) as connection:
        connection.sendall(request)
        assert _answer(connection).startswith(b"HTTP/1.1 200")
        time.sleep(0.4)  # an idle connection is no slow head
        connection.sendall(request + b"POST /retr")
        assert _answer(connection).startswith(b"HTTP/1.1 200")
        assert _is_cut_off(connection)


@pytest.mark.parametrize("protocol", ["h2c", "websocket"])
@pytest.mark.parametrize(
    ("method", "path", "body", "status", "said"),
    [
        ("POST", "/retrieve", '{"query": "hill"}', 400, "Upgrade: "),
        ("GET", "/retrieve", None, 405, "expected POST"),
        ("GET", "/healthz", None, 200, ""),
    ],
)
def test_an_offer_of_another_protocol_is_passed_over_or_refused(
    searcher: Searcher,
    capfd: pytest.CaptureFixture[str],
    protocol: str,
    method: str,
    path: str,
    body: str | None,
    status: int,
    said: str,
) -> None:
    """Some clients offer it by default. The parser reads no body behind the offer."""
    offer = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": protocol, "HTTP2-Settings": "A"}
    with serving(searcher) as address:
        connection = http.client.HTTPConnection(address.removeprefix("http://"), timeout=20)
        connection.request(method, path, body, offer)
        answer = connection.getresponse()
        assert answer.status == status
        assert said in answer.read().decode()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("pieces", [1, 7])
@pytest.mark.parametrize(("over", "statuses"), [(0, ["200"]), (1, ["431"]), (40_000, ["431", ""])])
def test_the_limit_of_a_head_is_exact(
    searcher: Searcher, over: int, statuses: list[str], pieces: int
) -> None:
    """Of the URL and the lines of the fields, in one piece or in several."""
    body = b'{"query": "hill"}'
    known = b"Content-Length: %d\r\n" % len(body)
    room = (64 << 10) + over - len(b"/retrieve" + known + b"X: \r\n")
    head = b"POST /retrieve HTTP/1.1\r\n" + known + b"X: " + b"a" * room + b"\r\n\r\n"
    with serving(searcher) as address, _connection(address) as connection:
        size = len(head) // pieces + 1
        answer = b""
        with suppress(ConnectionError):
            for start in range(0, len(head), size):
                connection.sendall(head[start : start + size])
                time.sleep(0.01)
            connection.sendall(body if not over else b"")
            answer = connection.recv(1000)
    assert answer.decode()[9:12] in statuses


def test_an_endless_head_is_cut_off(searcher: Searcher) -> None:
    with serving(searcher) as address, _connection(address) as connection:
        connection.sendall(b"POST /retrieve HTTP/1.1\r\nHost: x\r\n")
        with suppress(ConnectionError):
            for at in range(3000):
                connection.sendall(b"X-%d: " % at + b"x" * 1000 + b"\r\n")
        assert _is_cut_off(connection)


CHUNKED = b"POST /retrieve HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
CHUNK = b'11\r\n{"query": "hill"}\r\n'


@pytest.mark.parametrize(
    ("start", "piece"),
    [
        (CHUNK + b"0\r\n", b"X: " + b"x" * 1000 + b"\r\n"),
        (CHUNK + b"0\r\nX: ", b"x" * 1000),
        (CHUNK + b"5;x=", b"x" * 1000),
    ],
    ids=["trailers", "a trailer", "an extension"],
)
def test_what_stands_around_a_body_without_end_is_cut_off(
    searcher: Searcher, start: bytes, piece: bytes
) -> None:
    """Nothing else would limit the memory that it takes."""
    with serving(searcher) as address, _connection(address) as connection:
        connection.sendall(CHUNKED + start)
        with suppress(ConnectionError):
            for _ in range(20_000):
                connection.sendall(piece)
        assert _is_cut_off(connection)


def test_trailers_are_left_out(searcher: Searcher) -> None:
    body = CHUNK + b"0\r\nAuthorization: x\r\n\r\n"
    with serving(searcher) as address, _connection(address) as connection:
        for _ in range(2):
            connection.sendall(CHUNKED + body)
            assert _answer(connection).startswith(b"HTTP/1.1 200")


def test_a_client_that_only_listens_any_more_gets_its_answer() -> None:
    retriever = Scripted()
    retriever.gate.clear()
    with serving(retriever) as address, _connection(address) as connection:
        connection.sendall(
            b'POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: 17\r\n\r\n{"query": "hill"}'
        )
        connection.shutdown(socket.SHUT_WR)
        assert retriever.entered.wait(20)
        retriever.gate.set()
        assert _answer(connection).startswith(b"HTTP/1.1 200")
        assert _is_cut_off(connection)
        with _connection(address) as half:
            half.sendall(b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: 17\r\n\r\n{")
            half.shutdown(socket.SHUT_WR)
            assert _is_cut_off(half)


WHOLE = b'POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: 17\r\n\r\n{"query": "hill"}'


@pytest.mark.parametrize("whole", [1, 3])
@pytest.mark.parametrize(
    ("bad", "status"),
    [
        (b"\0 nonsense\r\n\r\n", ["400"]),
        (CHUNKED + b"zz\r\n", ["400"]),
        (b"POST /retrieve HTTP/1.1\r\nX: " + b"x" * 66_000 + b"\r\n\r\n", ["431"]),
        (WHOLE.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"), ["400"]),
        (WHOLE[:-1], []),
    ],
    ids=["no HTTP", "a bad chunk", "a large head", "an upgrade", "half a request"],
)
def test_whole_requests_before_a_bad_one_are_answered_first(
    bad: bytes, status: list[str], whole: int
) -> None:
    """In their order: a client takes the first answer for that to its first request."""
    retriever = Scripted()
    retriever.gate.clear()
    with serving(retriever) as address, _connection(address) as connection:
        connection.sendall(WHOLE * whole + bad)
        connection.shutdown(socket.SHUT_WR)
        assert retriever.entered.wait(20)
        time.sleep(0.1)
        retriever.gate.set()
        answers = b"".join(iter(lambda: connection.recv(10_000), b""))
    found = re.findall(r"HTTP/1.1 (\d+)", answers.decode())
    assert found == ["200"] * whole + status


def test_queries_under_way_are_answered_before_the_server_ends() -> None:
    retriever = Scripted()
    retriever.gate.clear()
    server, thread, address = _start(lambda: retriever)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(_post, address, {"query": f"q{at}"}) for at in range(4)]
        wait_for_metric(address, "tspo_waiting_queries 3.0")
        server.should_exit = True
        with suppress(httpx.TransportError):  # refused from now on, or cut off
            while _post(address, {"query": "late"}, timeout=0.2):
                time.sleep(0.01)
        retriever.gate.set()
        assert [request.result().status_code for request in asked] == [200] * 4
    thread.join(20)
    assert not thread.is_alive()


def test_a_server_can_be_stopped_while_it_opens_its_index() -> None:
    never = threading.Event()
    server, thread, address = _start(lambda: never.wait(60))  # type: ignore[arg-type,return-value]
    assert httpx.get(f"{address}/readyz", trust_env=False).status_code == 503
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()
    never.set()


def _start(open_retriever: Callable[[], Retriever]) -> tuple[uvicorn.Server, threading.Thread, str]:
    """A server on its own, its thread and its address, listening."""
    bound = listen("127.0.0.1", 0)
    server = uvicorn.Server(server_config(create_app(open_retriever, ServiceSettings(max_batch=1))))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    while not server.started:
        time.sleep(0.01)
    return server, thread, f"http://127.0.0.1:{bound.getsockname()[1]}"


def _connection(address: str) -> socket.socket:
    host, port = address.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def _answer(connection: socket.socket) -> bytes:
    """One whole answer to /retrieve; head and body may come apart."""
    received = b""
    while not received.endswith(b"]]}"):
        part = connection.recv(10_000)
        assert part, f"the connection ended after {received!r}"
        received += part
    return received


def _is_cut_off(connection: socket.socket) -> bool:
    try:
        return connection.recv(1000) == b""
    except ConnectionError:
        return True


@pytest.mark.parametrize("size", [20_001, 100_000, 400_000])
def test_large_bodies_are_413(url: str, size: int) -> None:
    """Also where the sender does not say the length, and beyond the size to which bodies are read
    to their end.
    """

    def pieces() -> Iterator[bytes]:
        yield from (b"x" * 1000 for _ in range(size // 1000 + 1))

    answers = [_post(url, {"query": "x" * size})]
    if size < 8 * 20_000:
        answers.append(httpx.post(f"{url}/retrieve", content=pieces(), trust_env=False))
    for answer in answers:
        assert answer.status_code == 413
        assert answer.json()["detail"] == "body: expected at most 20000 bytes"
    assert _post(url, {"query": "hill"}).status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "br", "gzip, identity", "zzz"])
def test_a_packed_body_is_said_to_be_one(url: str, encoding: str) -> None:
    headers = {"Content-Encoding": encoding}
    answer = _post(url, {"query": "hill"}, headers=headers)
    assert answer.status_code == 415
    assert answer.json()["detail"] == "Content-Encoding: expected a body that is not packed"
    for plain in ("Identity", "", "identity, identity"):
        assert _post(url, {"query": "hill"}, headers={"Content-Encoding": plain}).is_success
    twice = [("Content-Encoding", "identity"), ("Content-Encoding", encoding)]
    assert _post(url, {"query": "hill"}, headers=twice).status_code == 415


@pytest.mark.parametrize(
    "coding", ["gzip, chunked", "gzip\r\nTransfer-Encoding: chunked", "x,Chunked"]
)
@pytest.mark.parametrize("packed", [True, False])
def test_a_body_packed_for_the_way_is_said_to_be_one(url: str, coding: str, packed: bool) -> None:
    body = b'{"query": "hill"}'
    body = gzip.compress(body) if packed else body
    head = f"POST /retrieve HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: {coding}\r\n\r\n"
    answer = _first_answer(url, head.encode() + b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))
    assert answer.startswith(b"HTTP/1.1 415 ")
    assert b"Transfer-Encoding: expected chunked alone" in answer
    chunked = head.replace(coding, "Chunked").encode() + b"11\r\n%s\r\n0\r\n\r\n"
    assert b" 200 OK" in _first_answer(url, chunked % b'{"query": "hill"}')


@pytest.mark.parametrize("length", [20_001, 10**18, 2**63 - 1, 2**64 - 1])
def test_a_declared_length_beyond_the_limit_is_refused_at_once(url: str, length: int) -> None:
    head = b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length
    assert _first_answer(url, head).startswith((b"HTTP/1.1 413 ", b"HTTP/1.1 400 "))


def _first_answer(url: str, request: bytes) -> bytes:
    """The head and the body, each part of which comes within two seconds."""
    with socket.create_connection((httpx.URL(url).host, httpx.URL(url).port)) as connection:
        connection.settimeout(2)
        connection.sendall(request)
        answer = HTTPResponse(connection)
        answer.begin()
        return f"HTTP/1.1 {answer.status} {answer.reason}\r\n".encode() + answer.read()
