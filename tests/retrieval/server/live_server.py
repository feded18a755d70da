"""A real service on a free port of this machine, for as long as a test needs it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from tspo_cli.retrieval.index.build_index import build_index
from tspo_cli.retrieval.index.searcher import Searcher, open_index
from tspo_cli.retrieval.server.http_app import ServiceSettings, create_app
from tspo_cli.retrieval.server.listen import listen, server_config
from tspo_cli.retrieval.types import Hit, Retriever, RetrieverInfo, SearchResult

PASSAGES = [
    {"id": "n1", "contents": '"Blue Lake"\nThe lake lies in the north.'},
    {"id": "s2", "contents": '"Südstadt"\nA "town" by the lake — naïve 日本語.'},
    {"id": "u3", "contents": '""\nUntitled notes on lake and hill'},
]


@contextmanager
def serving(retriever: Retriever, *, port: int = 0, **settings: Any) -> Iterator[str]:
    """The base URL of a service around `retriever`, once it answers queries. Port 0: a free one."""
    bound = listen("127.0.0.1", port)
    app = create_app(lambda: retriever, ServiceSettings(**settings))
    server = uvicorn.Server(server_config(app))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
    thread.start()
    url = f"http://127.0.0.1:{bound.getsockname()[1]}"
    try:
        while not (
            server.started and httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
        ):
            assert thread.is_alive()
            time.sleep(0.01)
        yield url
    finally:
        server.should_exit = True
        thread.join()


def small_searcher(folder: Path) -> Searcher:
    """An opened BM25 index of three passages."""
    (folder / "corpus.jsonl").write_text(
        "".join(json.dumps(passage) + "\n" for passage in PASSAGES)
    )
    build_index(folder / "corpus.jsonl", folder / "index")
    return open_index(folder / "index")


class Scripted:
    """Answers every query with itself; keeps the batches it was asked and waits while the gate is
    shut.
    """

    blocking = False

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.threads: set[str] = set()
        self.entered = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def describe(self) -> RetrieverInfo:
        return RetrieverInfo()

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        self.batches.append(list(queries))
        self.threads.add(threading.current_thread().name)
        self.entered.set()
        assert self.gate.wait(20)
        if any("bad" in query for query in queries):
            raise RuntimeError("cannot read this")
        return [
            SearchResult(tuple(Hit(str(at), query, 1.0) for at in range(k))) for query in queries
        ]


def wait_for_metric(url: str, line: str) -> None:
    end = time.monotonic() + 20
    while line not in httpx.get(f"{url}/metrics", trust_env=False).text.splitlines():
        assert time.monotonic() < end, line
        time.sleep(0.01)
