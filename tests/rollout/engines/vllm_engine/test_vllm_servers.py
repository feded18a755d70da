"""VllmServers against a server that speaks vLLM's HTTP API and samples nothing: no vLLM needed."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from tspo_cli.errors import InvalidInputError, RemoteServiceError
from tspo_cli.rollout.engines.engine_protocol import Completion, GenerationRequest, Sampling
from tspo_cli.rollout.engines.vllm_engine.vllm_control import ServerControl
from tspo_cli.rollout.engines.vllm_engine.vllm_servers import ProcessGroup, VllmServers

CONTEXT = 64


class FakeVllm(ThreadingHTTPServer):
    """Answers every request with the ids [5, 6, 1], after `seconds`. `fail_next` requests get
    status 500 first. It can be killed, hang, and be started again on its port. A request for a path
    of `drops` loses its connection; each takes one away. All but /health need the token, where
    there is one; `refused` has the paths that came without it.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.label = "unknown"
        self.fail_next = 0
        self.drops: list[str] = []
        self.token = ""
        self.refused: list[str] = []
        self.seconds = 0.0
        self.dead, self.hangs = threading.Event(), False
        self.calls: list[tuple[str, Any]] = []
        self.statistics: dict[str, float] = {}
        threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()

    def kill(self) -> None:
        """No request gets an answer any more, those under way included."""
        self.dead.set()
        self.shutdown()
        self.server_close()

    @property
    def prompts(self) -> list[tuple[list[int], int]]:
        """Token ids and seeds of the requests, in the order in which they came."""
        return [
            (body["token_ids"], body["sampling_params"]["seed"])
            for path, body in list(self.calls)
            if path == "/inference/v1/generate"
        ]

    def respond(self, path: str, body: Any) -> tuple[int, Any]:
        self.calls.append((path, body))
        while self.hangs and not self.dead.is_set():
            time.sleep(0.01)
        if path == "/v1/models":
            return 200, {"data": [{"max_model_len": CONTEXT}]}
        if path == "/metrics":
            lines = (f'vllm:{name}{{engine="0"}} {n}\n' for name, n in self.statistics.items())
            return 200, "".join(lines)
        if path == "/weight_info":
            return 200, {"weight_version": self.label}
        if path == "/update_weight_version":
            self.label = body["new_version"]
        if path == "/inference/v1/generate":
            if self.fail_next:
                self.fail_next -= 1
                return 500, {"error": "lost"}
            self.dead.wait(self.seconds)
            content = [{"logprob": -0.5}, {"logprob": -0.25}, {"logprob": -1.0}]
            return 200, {
                "choices": [
                    {
                        "token_ids": [5, 6, 1],
                        "logprobs": {"content": content},
                        "finish_reason": "stop",
                        "stop_reason": None,
                        "weight_versions": [{"version": self.label}],
                    }
                ]
            }
        return 200, None


class _Handler(BaseHTTPRequestHandler):
    server: FakeVllm

    def do_GET(self) -> None:
        self._answer(None)

    def do_POST(self) -> None:
        length = int(self.headers.get("content-length") or 0)
        body = json.loads(self.rfile.read(length) or b"null")
        self._answer(body)

    def _answer(self, body: Any) -> None:
        if self.path in self.server.drops:
            self.server.drops.remove(self.path)
            self.close_connection = True
            return
        given, token = self.headers.get("authorization"), self.server.token
        if self.path != "/health" and given != (f"Bearer {token}" if token else None):
            self.server.refused.append(self.path)
            self._send(401, {"detail": "expected Authorization: Bearer TOKEN"})
        else:
            self._send(*self.server.respond(self.path, body))

    def _send(self, status: int, content: Any) -> None:
        if self.server.dead.is_set():
            self.close_connection = True
            return
        text = content if isinstance(content, str) else json.dumps(content)
        payload = b"" if content is None else text.encode()
        self.send_response(status)
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *arguments: Any) -> None: ...


@pytest.fixture
def servers() -> Iterator[list[FakeVllm]]:
    running = [FakeVllm(), FakeVllm()]
    yield running
    for server in running:
        server.kill()


def connect(
    servers: list[FakeVllm],
    folder: Path,
    messages: list[str],
    max_context: int = CONTEXT,
    token: str = "",
    patience: float = 20.0,
    processes: ProcessGroup | None = None,
) -> VllmServers:
    return VllmServers(
        [server.url for server in servers],
        folder,
        eos_ids=[1],
        max_context=max_context,
        patience=patience,
        processes=processes or ProcessGroup(),
        log=messages.append,
        token=token,
    )


def complete(engine: VllmServers, count: int) -> list[Completion]:
    for session in range(count):
        engine.submit(GenerationRequest(session, (2, 3, 4), Sampling(max_new_tokens=8), session))
    done: list[Completion] = []
    while len(done) < count:
        done += engine.step()
    return sorted(done, key=lambda completion: completion.session)


def test_requests_are_spread_and_weights_reach_every_server(
    servers: list[FakeVllm], tmp_path: Path
) -> None:
    engine = connect(servers, tmp_path / "handover", [])
    engine.load_weights({"head": torch.ones(2)}, 7)
    done = complete(engine, 4)
    assert done[0] == Completion(0, (5, 6, 1), (-0.5, -0.25, -1.0), "eos", 7)
    for server in servers:
        paths = [path for path, _ in server.calls]
        assert paths.count("/inference/v1/generate") == 2
        loaded = [body for path, body in server.calls if path == "/collective_rpc"]
        assert loaded == [
            {"method": "tspo_load_files", "args": [str(tmp_path / "handover" / "version_7")]}
        ]
    engine.load_weights({"head": torch.ones(2)}, 8)
    assert [path.name for path in (tmp_path / "handover").iterdir()] == ["version_8"]
    with pytest.raises(ValueError, match="own"):
        engine.load_weights(None, 9)
    engine.sleep()
    engine.close()


def test_the_load_of_every_server_is_told(servers: list[FakeVllm], tmp_path: Path) -> None:
    first, second = servers
    for server in servers:
        server.statistics = {"kv_cache_usage_perc": 0.25, "num_preemptions_total": 9}
    engine = connect(servers, tmp_path, [])
    engine.take_load()
    first.statistics = {"kv_cache_usage_perc": 0.5, "num_preemptions_total": 12}
    second.statistics |= {"num_preemptions_total": 10}
    assert engine.take_load() == {"kv_cache_peak": 0.5, "preemptions": 4}
    first.statistics = {}
    second.kill()
    assert engine.take_load() == {}, "a server that is gone holds nothing up"
    engine.close()


@pytest.mark.parametrize("error", [httpx.ReadTimeout, httpx.DecodingError, httpx.TooManyRedirects])
def test_no_answer_about_the_load_ends_a_step(error: type[httpx.HTTPError]) -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise error("no answer")

    async def ask() -> str:
        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
            control = ServerControl("http://a", client, patience=1, weights_folder=Path)
            return await control.statistics()

    assert asyncio.run(ask()) == ""


def test_a_request_is_repeated_after_an_error(servers: list[FakeVllm], tmp_path: Path) -> None:
    engine = connect(servers[:1], tmp_path, [])
    engine.load_weights({"head": torch.ones(2)}, 1)
    servers[0].fail_next = 1
    (done,) = complete(engine, 1)
    assert (done.token_ids, done.weight_version) == ((5, 6, 1), 1)
    engine.close()


def test_a_server_with_other_weights_gets_the_current_ones(
    servers: list[FakeVllm], tmp_path: Path
) -> None:
    messages: list[str] = []
    engine = connect(servers[:1], tmp_path, messages)
    engine.load_weights({"head": torch.ones(2)}, 3)
    servers[0].label = "restarted"
    (done,) = complete(engine, 1)
    assert (done.weight_version, done.mixed) == (3, False)
    assert [" is lost" in message or " is back after" in message for message in messages] == [
        True,
        True,
    ]
    engine.close()


def test_a_released_session_forgets_its_late_response(
    servers: list[FakeVllm], tmp_path: Path
) -> None:
    engine = connect(servers[:1], tmp_path, [])
    engine.load_weights({"head": torch.ones(2)}, 1)
    request = GenerationRequest(0, (2, 3), Sampling(max_new_tokens=8))
    engine.submit(request)
    with pytest.raises(ValueError, match="in flight"):
        engine.submit(request)
    engine.release(0)
    (done,) = complete(engine, 1)
    assert done.session == 0
    assert engine.step() == []
    engine.close()


def test_servers_that_cannot_be_used_are_refused(
    servers: list[FakeVllm], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidInputError, match="was started for 64 tokens"):
        connect(servers, tmp_path, [], max_context=CONTEXT + 1)
    monkeypatch.setattr(
        servers[0],
        "respond",
        lambda path, body: (200, None) if path == "/health" else (404, None),
    )
    with pytest.raises(InvalidInputError, match="was not started with `tspo engine`"):
        connect(servers, tmp_path, [])


def test_a_rejected_request_is_an_error(
    servers: list[FakeVllm], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = connect(servers[:1], tmp_path, [])
    monkeypatch.setattr(servers[0], "respond", lambda path, body: (400, {"error": "bad"}))
    with pytest.raises(RemoteServiceError, match="rejects a request"):
        complete(engine, 1)
    engine.close()


def test_processes_share_servers() -> None:
    urls = ["a", "b", "c"]
    groups = [ProcessGroup(rank, 2) for rank in range(2)]
    assert [group.request_urls(urls) for group in groups] == [["a", "b", "c"], ["b", "c", "a"]]
    assert [group.update_urls(urls) for group in groups] == [["a", "c"], ["b"]]
    assert ProcessGroup(1, 2).request_urls(["a"]) == ["a"]
    assert ProcessGroup(1, 2).update_urls(["a"]) == []


def test_every_request_has_the_token(servers: list[FakeVllm], tmp_path: Path) -> None:
    """Also those that bring a lost server back."""
    for server in servers:
        server.token = "the-token-of-this-run"
    engine = connect(servers, tmp_path, [], token="the-token-of-this-run")
    engine.load_weights({"head": torch.ones(2)}, 1)
    servers[0].label, servers[1].fail_next = "restarted", 1
    assert len(complete(engine, 4)) == 4
    engine.close()
    paths = {path for server in servers for path, _ in server.calls}
    control = {"/collective_rpc", "/pause?mode=keep", "/resume", "/update_weight_version"}
    assert paths > control | {"/inference/v1/generate", "/weight_info", "/v1/models"}
    assert [server.refused for server in servers] == [[], []]


@pytest.mark.parametrize("token", ["", "another-token-than-its-own"])
def test_a_server_that_refuses_the_token_ends_the_run(
    servers: list[FakeVllm], tmp_path: Path, token: str
) -> None:
    servers[0].token = "the-token-of-this-run"
    with pytest.raises(InvalidInputError, match=r"refuses the token.*TSPO_ENGINE_TOKEN"):
        connect(servers[:1], tmp_path, [], token=token)


@pytest.mark.parametrize("moment", ["generation", "hand-over"])
def test_a_token_that_changed_ends_the_run(
    servers: list[FakeVllm], tmp_path: Path, moment: str
) -> None:
    engine = connect(servers[:1], tmp_path, [])
    servers[0].token = "set-while-the-run-goes"
    calls: dict[str, Callable[[], object]] = {
        "generation": lambda: complete(engine, 1),
        "hand-over": lambda: engine.load_weights({"head": torch.ones(2)}, 1),
    }
    with pytest.raises(InvalidInputError, match="refuses the token"):
        calls[moment]()
    engine.close()
