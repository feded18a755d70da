"""Connections that are used again: what one answer brings along never becomes another answer."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from io import BufferedReader

import httpx
import pytest

from tspo_cli.retrieval.remote.http_client import HttpRetriever
from tspo_cli.retrieval.remote.timed_transport import keep_answers_apart
from tspo_cli.rollout.engines.endpoint.endpoint_client import EndpointClient


@dataclass
class Server:
    """Answers on connections that stay open, and keeps the heads of the requests."""

    url: str
    heads: list[bytes] = field(default_factory=list)
    connections: int = 0


Answer = Callable[[bytes, int], bytes]
"""What a request, by its body and number, is answered with."""


def head_of(requests: BufferedReader) -> bytes:
    """The lines before a body; none at the end of the connection."""
    lines = []
    while (line := requests.readline()) not in (b"\r\n", b""):
        lines.append(line)
    return b"".join(lines)


@contextmanager
def open_server(answer: Answer) -> Iterator[Server]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        server = Server(f"http://127.0.0.1:{listening.getsockname()[1]}")
        opened: list[socket.socket] = []

        def serve(connection: socket.socket) -> None:
            with suppress(OSError), connection.makefile("rb") as requests:
                while head := head_of(requests):
                    (length,) = [
                        int(line.partition(b":")[2])
                        for line in head.lower().splitlines()
                        if line.startswith(b"content-length:")
                    ]
                    body = requests.read(length)
                    server.heads.append(head)
                    connection.sendall(answer(body, len(server.heads)))

        def accept() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    opened.append(connection)
                    server.connections += 1
                    threading.Thread(target=serve, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        try:
            yield server
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            for connection in opened:
                connection.close()


def whole(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def passages(name: str) -> bytes:
    hit = {"document": {"id": name, "contents": f'"{name}"\ntext'}, "score": 1.0}
    return json.dumps({"result": [[hit]], "name": name}).encode()


def asked(body: bytes) -> str:
    """The query of a request, which is the passage that it gets."""
    (query,) = json.loads(body)["queries"]
    return str(query)


def twice(body: bytes, number: int) -> bytes:
    return whole(passages(asked(body))) + whole(passages("unasked"))


def in_part(body: bytes, number: int) -> bytes:
    return whole(passages(asked(body))) + b"HTTP/1.1 200 OK\r\n"


QUERIES = ["one", "two", "three"]


@pytest.mark.parametrize("answer", [twice, in_part])
def test_an_unasked_answer_is_not_that_of_the_next_query(answer: Answer) -> None:
    with open_server(answer) as server:
        retriever = HttpRetriever([server.url], deadline=20.0)
        found = [retriever.search([query], 1)[0].hits[0].id for query in QUERIES]
        retriever.close()
    assert found == QUERIES
    assert len(server.heads) == len(QUERIES)


def test_an_unasked_answer_is_not_that_of_the_next_prompt() -> None:
    with open_server(twice) as server:
        client = EndpointClient(server.url, timeout=20.0)
        found = [client.post("/x", {"queries": [query]})["name"] for query in QUERIES]
        client.close()
    assert found == QUERIES


def test_an_unasked_answer_is_not_that_of_the_next_rollout() -> None:
    async def ask(url: str) -> list[str]:
        async with keep_answers_apart(httpx.AsyncClient(trust_env=False)) as client:
            return [
                (await client.post(url, json={"queries": [query]})).json()["name"]
                for query in QUERIES
            ]

    with open_server(twice) as server:
        assert asyncio.run(ask(server.url)) == QUERIES


def test_a_connection_is_used_again_after_its_answer() -> None:
    """Also after the server said that it is busy."""

    def busy_first(body: bytes, number: int) -> bytes:
        return whole(b"{}", status="429 Busy") if number == 1 else whole(passages(asked(body)))

    with open_server(busy_first) as server:
        retriever = HttpRetriever([server.url], deadline=20.0, first_wait=0.01)
        found = [retriever.search([query], 1)[0].hits[0].id for query in QUERIES]
        retriever.close()
    assert found == QUERIES
    assert server.connections == 1


def with_cookie(body: bytes, number: int) -> bytes:
    return whole(passages(asked(body)), f"Set-Cookie: n{number}=1; Path=/")


def test_no_cookie_is_kept() -> None:
    async def ask(url: str) -> None:
        async with keep_answers_apart(httpx.AsyncClient(trust_env=False)) as client:
            for query in QUERIES:
                await client.post(url, json={"queries": [query]})

    with open_server(with_cookie) as server:
        retriever = HttpRetriever([server.url], deadline=20.0)
        endpoint = EndpointClient(server.url, timeout=20.0)
        for query in QUERIES:
            retriever.search([query], 1)
            endpoint.post("/x", {"queries": [query]})
        retriever.close()
        endpoint.close()
        asyncio.run(ask(server.url))
    assert len(server.heads) == 3 * len(QUERIES)
    assert not [head for head in server.heads if b"cookie:" in head.lower()]


def test_no_token_follows_a_redirect() -> None:
    with open_server(lambda body, number: whole(b"")) as other:

        def away(body: bytes, number: int) -> bytes:
            return whole(b"", f"Location: {other.url}/retrieve", status="307 Moved")

        with open_server(away) as server:
            retriever = HttpRetriever([server.url], retries=0, token="t" * 20)
            with pytest.raises(Exception, match="status 307, a redirect, which is not followed"):
                retriever.search(["one"], 1)
            retriever.close()
    assert len(server.heads) == 1
    assert other.heads == []
