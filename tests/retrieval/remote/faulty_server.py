"""A server of passages that misbehaves in every way of a table, on raw sockets."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

Send = Callable[[socket.socket, int], None]
"""Answer on the connection a request of so many queries."""

PASSAGE = {"document": {"id": "p1", "contents": '"Bridge"\nIt spans the river Vel.'}, "score": 1.5}
SLOW = 0.05
"""Seconds between the bytes of a server that drips."""


def http(body: bytes, status: str = "200 OK", *headers: str, length: int | None = None) -> bytes:
    """A whole HTTP answer."""
    size = len(body) if length is None else length
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {size}", "Connection: close", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def good(count: int) -> bytes:
    return json.dumps({"result": [[PASSAGE]] * count}).encode()


def raw(content: bytes) -> Send:
    return lambda conn, count: conn.sendall(content)


def answer(value: Any) -> Send:
    """`value` as JSON, escapes of surrogates included."""
    return raw(http(json.dumps(value).encode()))


def hits(*records: Any) -> Send:
    """These records for every query."""
    return lambda conn, count: conn.sendall(
        http(json.dumps({"result": [list(records)] * count}).encode())
    )


def document(**fields: Any) -> Send:
    return hits({"document": {"id": "p1", **fields}, "score": 1.0})


def scored(score: str) -> Send:
    """The score as it is written, JSON or not."""
    text = '{"result": [[{"document": {"id": "1", "contents": "x"}, "score": %s}]]}'
    return raw(http((text % score).encode()))


def status(line: str, *headers: str) -> Send:
    return raw(http(b'{"detail": "no"}', line, *headers))


def _well(conn: socket.socket, count: int) -> None:
    conn.sendall(http(good(count)))


def _gzipped(conn: socket.socket, count: int) -> None:
    conn.sendall(http(gzip.compress(good(count)), "200 OK", "Content-Encoding: gzip"))


def _hang(conn: socket.socket, count: int) -> None:
    time.sleep(0.4)


def _drip(content: bytes) -> Send:
    def send(conn: socket.socket, count: int) -> None:
        for at in range(12):
            conn.sendall(content[at : at + 1])
            time.sleep(SLOW)

    return send


def _reset(conn: socket.socket, count: int) -> None:
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def _cut(conn: socket.socket, count: int) -> None:
    conn.sendall(http(good(count)[:40], length=len(good(count))))


def _cut_in_head(conn: socket.socket, count: int) -> None:
    conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Le")


def _cut_chunk(conn: socket.socket, count: int) -> None:
    conn.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n40\r\n" + good(count)[:20])


def _continues(conn: socket.socket, count: int) -> None:
    for _ in range(12):
        conn.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(SLOW)


def _endless_chunk_head(conn: socket.socket, count: int) -> None:
    conn.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;" + b"a" * 200_000)


def _one_list_less(conn: socket.socket, count: int) -> None:
    conn.sendall(http(json.dumps({"result": [[PASSAGE]] * (count - 1)}).encode()))


def _one_list_more(conn: socket.socket, count: int) -> None:
    conn.sendall(http(json.dumps({"result": [[PASSAGE]] * (count + 1)}).encode()))


Outcome = Literal["answer", "failed", "malformed", "waits", "locked"]


@dataclass(frozen=True, slots=True)
class Mode:
    """One way to misbehave.

    What the client makes of it: `answer`, a right one; `failed`, at once an error of the query with
    `reason`; `malformed`, another attempt, and in the end the same; `waits`, another attempt, and
    in the end a server that is not there; `locked`, that at once.
    """

    name: str
    outcome: Outcome
    send: Send
    reason: str = ""


_DEEP = b'{"result": [' + b"[" * 200_000 + b"]" * 200_000 + b"]}"
MODES = (
    Mode("well", "answer", _well),
    Mode("gzip", "answer", _gzipped),
    Mode("no hits", "answer", hits()),
    Mode("fewer hits than asked for", "answer", hits(PASSAGE)),
    Mode("more hits than asked for", "answer", hits(*[PASSAGE] * 9)),
    Mode("unknown fields", "answer", answer({"result": [[PASSAGE | {"x": 1}]], "took": 0.1})),
    Mode("id null", "answer", hits({"contents": "x", "id": None})),
    Mode("id a number", "answer", hits({"contents": "x", "id": 7})),
    Mode("UTF-16", "answer", raw(http(good(1).decode().encode("utf-16")))),
    Mode("more beside a hit", "answer", hits(PASSAGE | {"x": [[[]] * 9] * 9})),
    Mode("connection closed", "waits", raw(b""), "disconnected"),
    Mode("connection reset", "waits", _reset, "reset"),
    Mode("hang", "waits", _hang, "no answer in time"),
    Mode("drip in the head", "waits", _drip(b"HTTP/1.1 200 OK"), "no answer in time"),
    Mode("cut in the head", "waits", _cut_in_head),
    Mode("cut in the body", "waits", _cut, "peer closed"),
    Mode("cut chunk", "waits", _cut_chunk, "peer closed"),
    Mode("no HTTP", "waits", raw(b"SSH-2.0-OpenSSH_9.6\r\n")),
    Mode("endless head", "waits", raw(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200_000)),
    Mode("a length that lies", "waits", raw(http(b"{}", "200 OK", "Content-Length: 7"))),
    Mode("two lengths", "waits", raw(http(b"{}", "200 OK", "Content-Length: 9")), "conflicting"),
    Mode("100 for ever", "waits", _continues, "no answer in time"),
    Mode("endless head of a chunk", "waits", _endless_chunk_head, "buffer too long"),
    Mode("101", "waits", raw(b"HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n")),
    Mode("599", "waits", status("599 Odd"), "status 599"),
    Mode("500", "waits", status("500 Internal Server Error"), "status 500"),
    Mode("502 page", "waits", raw(http(b"<html>Bad gateway</html>", "502 Bad Gateway")), "502"),
    Mode("503", "waits", status("503 Service Unavailable", "Retry-After: 0"), "status 503"),
    Mode("503 until a date", "waits", status("503 X", "Retry-After: Fri, 1 Jan 2027 00:00:00 GMT")),
    Mode("503 for ever", "waits", status("503 X", "Retry-After: 99999999999999999999"), "503"),
    Mode("504", "waits", status("504 Gateway Timeout"), "status 504"),
    Mode("429", "waits", status("429 Too Many Requests"), "status 429"),
    Mode("404", "waits", status("404 Not Found"), "status 404"),
    Mode(
        "redirect to another host", "waits", status("302 F", "Location: http://192.0.2.1/"), "302"
    ),
    Mode("redirect for good", "waits", status("308 P", "Location: /elsewhere"), "308"),
    Mode("redirect to no address", "waits", status("303 S", "Location: data:text/plain,x"), "303"),
    Mode("401", "locked", status("401 Unauthorized"), "status 401"),
    Mode("403", "locked", status("403 Forbidden"), "status 403"),
    Mode("400", "failed", status("400 Bad Request"), "status 400"),
    Mode("413", "failed", status("413 Too Large"), "status 413"),
    Mode("422", "failed", status("422 Unprocessable"), "status 422"),
    Mode("204", "failed", raw(b"HTTP/1.1 204 No Content\r\n\r\n"), "status 204"),
    Mode("206", "failed", raw(http(good(1), "206 Partial Content")), "status 206"),
    Mode(
        "gzip bomb",
        "failed",
        raw(http(gzip.compress(b" " * (70 << 20)), "200 OK", "Content-Encoding: gzip")),
        "more than 64 MiB",
    ),
    Mode("JSON and more", "malformed", raw(http(good(1) + b"{}")), "expected JSON"),
    Mode("empty body", "malformed", raw(http(b"")), "expected JSON"),
    Mode("HTML", "malformed", raw(http(b"<html>\x1b[31mWelcome</html>")), "<html>?[31mWelcome"),
    Mode("half a JSON", "malformed", raw(http(b'{"result": [[')), "expected JSON"),
    Mode("not UTF-8", "malformed", raw(http(b'{"result": [["\xff"]]}')), "expected JSON"),
    Mode("broken gzip", "malformed", raw(http(b"no gzip", "200 OK", "Content-Encoding: gzip"))),
    Mode("broken deflate", "malformed", raw(http(b"x", "200 OK", "Content-Encoding: deflate"))),
    Mode(
        "cut gzip",
        "malformed",
        raw(http(gzip.compress(good(1))[:9], "200 OK", "Content-Encoding: gzip")),
    ),
    Mode(
        "gzip in gzip",
        "malformed",
        raw(http(gzip.compress(gzip.compress(good(1))), "200 OK", "Content-Encoding: gzip, gzip")),
        "encoding",
    ),
    Mode(
        "unknown encoding",
        "malformed",
        raw(http(zlib.compress(b"{}"), "200 OK", "Content-Encoding: zpaq")),
        "zpaq",
    ),
    Mode("null", "malformed", answer(None), "expected"),
    Mode("a list", "malformed", answer([[PASSAGE]]), "expected"),
    Mode("no result", "malformed", answer({"hits": []}), "expected"),
    Mode("result null", "malformed", answer({"result": None}), "expected"),
    Mode("result an object", "malformed", answer({"result": {}}), "expected"),
    Mode("a list too few", "malformed", _one_list_less, "with 1 list"),
    Mode("a list too many", "malformed", _one_list_more, "with 1 list"),
    Mode("errors of another length", "malformed", answer({"result": [[]], "errors": ["a", "b"]})),
    Mode("an integer of 5000 digits", "failed", scored("1" * 5000), "thousands of digits"),
    Mode(
        "millions of lists",
        "failed",
        raw(http(b'{"result": [[' + b"[]," * 4_000_001 + b"[]]]}")),
        "more than 4,000,000 parts",
    ),
    Mode("deep JSON", "failed", raw(http(_DEEP)), "nested"),
    Mode("a key twice", "failed", raw(http(b'{"result": [[]], "result": [[]]}')), "'result' twice"),
    Mode(
        "a key of a passage twice",
        "failed",
        raw(http(b'{"result": [[{"contents": "a", "contents": "b"}]]}')),
        "'contents' twice",
    ),
    Mode("hits null", "failed", answer({"result": [None]}), "expected a list, got null"),
    Mode("hits an object", "failed", answer({"result": [{}]}), "expected a list"),
    Mode("hits text", "failed", answer({"result": ["abc"]}), "expected a list, got text"),
    Mode("hit null", "failed", hits(None), "expected a document, got null"),
    Mode("hit a list", "failed", hits([PASSAGE]), "expected a document, got a list"),
    Mode("document text", "failed", hits({"document": "x", "score": 1}), "expected a document"),
    Mode("no contents", "failed", document(), "title: expected text, got null"),
    Mode("contents null", "failed", document(contents=None), "contents: expected text, got null"),
    Mode("contents a number", "failed", document(contents=5), "contents: expected text"),
    Mode("contents a list", "failed", document(contents=["a"]), "contents: expected text"),
    Mode("text null", "failed", document(title="T", text=None), "text: expected text, got null"),
    Mode("title null", "failed", document(title=None, text="x"), "title: expected text"),
    Mode("surrogate in contents", "failed", document(contents="a \ud83d b"), "surrogate"),
    Mode("surrogate in a title", "failed", document(title="\udfff", text="x"), "surrogate"),
    Mode("surrogate in an id", "failed", hits({"id": "\ud800", "contents": "x"}), "surrogate"),
    Mode("id a fraction", "failed", hits({"id": 1.5, "contents": "x"}), "id: expected"),
    Mode("id of 1 MB", "failed", hits({"id": "x" * 10**6, "contents": "x"}), "id: 1000000 char"),
    Mode("id an object", "failed", hits({"id": {}, "contents": "x"}), "id: expected"),
    Mode("a passage of 10 MB", "failed", document(contents="x" * 10**7), "10000000 characters"),
    Mode("5000 hits", "failed", hits(*[PASSAGE] * 5000), "5000 hits for topk = 2"),
    Mode("score NaN", "failed", scored("NaN"), "finite"),
    Mode("score Infinity", "failed", scored("-Infinity"), "finite"),
    Mode("score beyond a float", "failed", scored("1e999"), "finite"),
    Mode("score a huge integer", "failed", scored("9" * 400), "finite"),
    Mode("score null", "failed", scored("null"), "score: expected a number, got null"),
    Mode("score text", "failed", scored('"1.5"'), "score: expected a number, got text"),
    Mode("score true", "failed", scored("true"), "score: expected a number"),
    Mode(
        "an error of the query",
        "failed",
        answer({"result": [[]], "errors": ["odd\nword"]}),
        "odd word",
    ),
    Mode("an error that is no text", "failed", answer({"result": [[]], "errors": [{"a": 1}]})),
)


@dataclass
class FaultyServer:
    """What has been asked of it, and how it behaves: `mode` for the first `faults` requests that
    have one of the queries `only` (empty: for every request).
    """

    url: str
    mode: Mode
    faults: float
    only: frozenset[str] = frozenset()
    requests: int = 0


@contextmanager
def faulty(
    mode: Mode, faults: float = float("inf"), only: Iterable[str] = (), *, gets: bool = False
) -> Iterator[FaultyServer]:
    """A server on a free port that misbehaves in `mode` for `faults` requests, then answers; to
    requests without a query of `only` it always answers. GET is 404, or with `gets` misbehaves too.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    state = FaultyServer(
        f"http://127.0.0.1:{listener.getsockname()[1]}", mode, faults, frozenset(only)
    )

    def serve(conn: socket.socket) -> None:
        with conn, suppress(OSError):
            conn.settimeout(2)
            request = _request(conn)
            if request is None and not gets:
                conn.sendall(http(b"", "404 Not Found"))
                return
            queries = (request or {}).get("queries", ())
            count = len(queries)
            state.requests += 1
            is_meant = not state.only or not state.only.isdisjoint(queries)
            (mode.send if is_meant and state.requests <= state.faults else _well)(conn, count)

    def accept() -> None:
        with suppress(OSError):
            while True:
                conn, _ = listener.accept()
                threading.Thread(target=serve, args=(conn,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield state
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def _request(conn: socket.socket) -> Any:
    """The JSON body of the request; None of a GET."""
    content = b""
    while b"\r\n\r\n" not in content:
        content += conn.recv(65536) or b"GET\r\n\r\n"
    if b"GET" in content[:3]:
        return None
    head, _, body = content.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1])
        for line in head.lower().split(b"\r\n")
        if line.startswith(b"content-length")
    )
    while len(body) < length:
        body += conn.recv(65536)
    return json.loads(body)
