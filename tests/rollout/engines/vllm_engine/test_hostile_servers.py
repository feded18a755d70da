"""vLLM servers that answer what none should: no training hangs, crashes or learns from it."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from tests.rollout.engines.vllm_engine.test_vllm_servers import FakeVllm, complete, connect
from tspo_cli.errors import InvalidInputError, RemoteServiceError
from tspo_cli.rollout.engines.vllm_engine.vllm_answers import (
    Generated,
    json_of,
    number_in,
    read_generated,
    results_of,
)

TURN = {
    "token_ids": [5, 6],
    "logprobs": {"content": [{"logprob": -0.5}, {"logprob": 0}]},
    "finish_reason": "stop",
    "stop_reason": "</answer>",
    "weight_versions": [{"version": "a.1"}],
}


def turn(**changes: Any) -> dict[str, Any]:
    return {"choices": [TURN | changes, TURN], "more": 1}


def logprobs(*values: Any) -> dict[str, Any]:
    return turn(logprobs={"content": [{"logprob": value} for value in values]})


def test_a_turn_is_read() -> None:
    expected = Generated((5, 6), (-0.5, 0), "stop", "</answer>", ("a.1",))
    assert read_generated(turn(), 2, 7) == expected
    empty = turn(token_ids=[], logprobs={"content": None}, weight_versions=None, stop_reason=None)
    assert read_generated(empty, 2, 7) == Generated((), (), "stop", None, ())


MALFORMED = [
    None,
    [],
    "text",
    {},
    {"choices": None},
    {"choices": []},
    {"choices": [None]},
    {"choices": {"0": TURN}},
    {"choices": [{name: value for name, value in TURN.items() if name != "weight_versions"}]},
    turn(token_ids=None),
    turn(token_ids="56"),
    turn(token_ids=[5, 7]),
    turn(token_ids=[5, -1]),
    turn(token_ids=[5, 2.0]),
    turn(token_ids=[5, True]),
    turn(token_ids=[5, "6"]),
    turn(token_ids=[5, 6, 6]),
    turn(logprobs=None),
    turn(logprobs={}),
    turn(logprobs={"content": [-0.5, -0.5]}),
    logprobs(-0.5, float("nan")),
    logprobs(-0.5, float("-inf")),
    logprobs(-0.5, 5.0),
    logprobs(-0.5, -(10**400)),
    logprobs(-0.5, -1e300),
    logprobs(-0.5, None),
    logprobs(-0.5, "-0.5"),
    logprobs(-0.5, False),
    turn(finish_reason=["stop"]),
    turn(stop_reason={}),
    turn(weight_versions=[None]),
    turn(weight_versions=[{"version": 1}]),
    turn(weight_versions={"version": "a.1"}),
]


@pytest.mark.parametrize("answer", MALFORMED, ids=lambda answer: repr(answer)[:80])
def test_a_turn_that_is_none_is_refused(answer: Any) -> None:
    with pytest.raises(httpx.RemoteProtocolError, match="expected") as told:
        read_generated(answer, 2, 7)
    assert len(str(told.value)) < 300


@pytest.mark.parametrize(
    "body", [b"", b"<html>", b'"\xff"', b"[" * 100_000, b"1" * 5000], ids=lambda body: body[:9]
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(httpx.RemoteProtocolError, match="expected JSON"):
        json_of(httpx.Response(200, content=body))


def test_what_workers_return() -> None:
    assert results_of(None) == results_of({}) == []
    assert results_of({"results": [None, "16"]}) == [None, "16"]
    assert [number_in(one) for one in (None, "16", 8)] == [0, 16, 8]
    for answer in ([], "a", {"results": "abc"}, {"results": {}}):
        with pytest.raises(httpx.RemoteProtocolError):
            results_of(answer)
    with pytest.raises(httpx.RemoteProtocolError):
        number_in("many")


@pytest.fixture
def server() -> Any:
    running = FakeVllm()
    yield running
    running.kill()


def answering(
    server: FakeVllm, path: str, content: Any, monkeypatch: pytest.MonkeyPatch
) -> FakeVllm:
    """The server, which answers `content` to requests for `path`."""
    usual = server.respond
    monkeypatch.setattr(
        server,
        "respond",
        lambda asked, body: (200, content) if asked == path else usual(asked, body),
    )
    return server


@pytest.mark.parametrize("answer", ["<html>", {"choices": []}, logprobs(-0.5, float("nan"))])
def test_a_training_ends_where_no_turn_can_be_read(
    server: FakeVllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Any
) -> None:
    engine = connect([server], tmp_path, [])
    engine.load_weights({"head": torch.ones(2)}, 1)
    answering(server, "/inference/v1/generate", answer, monkeypatch)
    with pytest.raises(RemoteServiceError, match=r"in 5 tries \(expected"):
        complete(engine, 1)
    engine.close()


@pytest.mark.parametrize("path", ["/v1/models", "/weight_info"])
@pytest.mark.parametrize("answer", [[], {}, {"data": []}, {"data": [{"max_model_len": "64"}]}, "a"])
def test_a_server_that_does_not_say_what_it_is_is_refused(
    server: FakeVllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, answer: Any
) -> None:
    answering(server, path, answer, monkeypatch)
    with pytest.raises(InvalidInputError, match="was not started with `tspo engine`"):
        connect([server], tmp_path, [])


def test_what_is_packed_or_too_large_is_not_read(
    server: FakeVllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And statistics, without which a step does."""
    handler = server.RequestHandlerClass
    bomb = gzip.compress(b" " * (1 << 20))

    def send(self: Any, status: int, content: Any) -> None:
        is_models = self.path == "/v1/models"
        body = bomb if is_models else b"x" * (65 << 20) if self.path == "/metrics" else b"{}"
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.send_header("content-encoding", "gzip" if is_models else "identity")
        self.end_headers()
        self.wfile.write(body)

    engine = connect([server], tmp_path, [])
    monkeypatch.setattr(handler, "_send", send)
    assert engine.take_load() == {}
    with pytest.raises(InvalidInputError, match="has the encoding 'gzip'"):
        connect([server], tmp_path, [])
    engine.close()
