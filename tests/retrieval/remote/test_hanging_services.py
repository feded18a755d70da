"""A service that takes a request and says nothing: callers say for what they wait, and how long."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tspo_cli.errors import RemoteServiceError
from tspo_cli.retrieval.remote import patience
from tspo_cli.retrieval.remote.http_client import HttpRetriever
from tspo_cli.rollout.engines.endpoint.endpoint_client import EndpointClient
from tspo_cli.threads import DaemonPool

HIT = {"document": {"id": "p1", "contents": '"t"\nx'}, "score": 1.0}
REPLY = {"choices": [{"message": {"content": "yes"}}]}


@contextmanager
def silent(gate: threading.Event, status: int = 200) -> Iterator[str]:
    """The address of a server that answers everything, but not before `gate` is open."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            gate.wait()
            queries = body.get("queries", [])
            answer: Any = {"result": [[HIT]] * len(queries)} if queries else REPLY
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        gate.set()
        server.shutdown()


class Said:
    """What stands on stderr so far."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys, self.text = capsys, ""

    def until(self, part: str) -> str:
        """Wait until `part` is said."""
        end = time.monotonic() + 60
        while part not in self.all():
            assert time.monotonic() < end, self.text
            time.sleep(0.01)
        return self.text

    def all(self) -> str:
        """All lines."""
        self.text += self.capsys.readouterr().err
        return self.text


@pytest.mark.parametrize("kind", ["retriever", "endpoint"])
def test_a_service_that_hangs_is_said_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(patience, "HANGS_AFTER", 0.05)
    gate, said = threading.Event(), Said(capsys)
    pool = DaemonPool(3, "callers")
    with silent(gate) as url:
        if kind == "retriever":
            retriever = HttpRetriever([url], timeout=300, deadline=250)
            calls = [pool.submit(retriever.search, [f"q{number}"], 1) for number in range(3)]
            name, most = f"retriever {url}/retrieve", 250
        else:
            client = EndpointClient(f"{url}/v1", timeout=120, retries=5)
            calls = [pool.submit(client.post, "/chat/completions", {}) for _ in range(3)]
            name, most = f"endpoint {url}/v1/chat/completions", 6 * 120 + 15.5
        said.until(f"{name}: no answer for 0 s; waiting for it, up to {most:.0f} s\n")
        time.sleep(0.2)  # time for a second line
        assert said.all().count("no answer") == 1
        gate.set()
        assert all(call.result(timeout=60) for call in calls)
        said.until("answers again after")
        assert said.all().count("\n") == 2
    pool.close()


def test_an_endpoint_that_fails_is_said_while_it_is_asked_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "_NOTICE_AFTER", 0.0)
    gate = threading.Event()
    gate.set()
    with silent(gate, status=503) as url, pytest.raises(RemoteServiceError):
        EndpointClient(f"{url}/v1", timeout=5, retries=1).post("/chat/completions", {})
    line = capsys.readouterr().err
    assert line.startswith(f"endpoint {url}/v1/chat/completions: status 503: ")
    assert line.endswith("; asked again for 0 s now, up to 10 s\n")


def test_what_always_takes_long_does_not_hang(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "HANGS_AFTER", 0.05)
    notices = patience.Notices(_slowest=3600)
    with notices.asking("it", 100):
        time.sleep(0.3)
    assert capsys.readouterr().err == ""
