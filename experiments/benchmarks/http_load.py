"""Closed-loop clients of POST /retrieve: each sends its next query after it has a response."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any


@dataclass
class Load:
    """The results of a load run. Latencies in seconds; `answers`: (query, body) of status 200."""

    seconds: float = 0.0
    client_cpu: float = 0.0
    latencies: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    answers: list[tuple[str, bytes]] = field(default_factory=list)
    retry_after: int = 0


class Client(asyncio.Protocol):
    """A connection that sends the next query as soon as it has a response."""

    def __init__(
        self, queries: Iterator[str], k: int, load: Load, done: asyncio.Future[None], keep: bool
    ) -> None:
        self.queries, self.k, self.load, self.done, self.keep = queries, k, load, done, keep

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.send_next()

    def send_next(self) -> None:
        query = next(self.queries, None)
        if query is None:
            self.transport.close()
            return
        self.query, self.received = query, b""
        body = json.dumps({"queries": [query], "topk": self.k, "return_scores": True}).encode()
        self.start = time.perf_counter()
        self.transport.write(
            b"POST /retrieve HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)
            + body
        )

    def data_received(self, data: bytes) -> None:
        self.received += data
        head, gap, body = self.received.partition(b"\r\n\r\n")
        if not gap:
            return
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        if len(body) < length:
            return
        status = int(head[9:12])
        self.load.latencies.append(time.perf_counter() - self.start)
        self.load.statuses[status] += 1
        self.load.retry_after += b"retry-after" in head.lower()
        if status == 200 and self.keep:
            self.load.answers.append((self.query, body))
        self.send_next()

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None:
            self.load.statuses[0] += 1  # a dropped connection
        if not self.done.done():
            self.done.set_result(None)


def put_load(port: int, queries: Sequence[str], k: int, clients: int, keep: bool = True) -> Load:
    """Send all `queries` from `clients` closed loops."""

    async def run() -> Load:
        loop = asyncio.get_running_loop()
        load, source = Load(), iter(queries)
        finished = [loop.create_future() for _ in range(clients)]
        start, cpu = time.perf_counter(), time.process_time()
        for done in finished:
            client = partial(Client, source, k, load, done, keep)
            await loop.create_connection(client, "127.0.0.1", port)
        await asyncio.wait_for(asyncio.gather(*finished), timeout=600)
        load.seconds, load.client_cpu = time.perf_counter() - start, time.process_time() - cpu
        return load

    return asyncio.run(run())
