"""Without the token a vLLM server does nothing: the middleware, and `tspo engine` that puts it in
front of every route.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect
from typer.testing import CliRunner

from tests.conftest import run_tspo
from tspo_cli.commands import engine as engine_command
from tspo_cli.commands.app import app as tspo_app
from tspo_cli.rollout.engines.vllm_engine.guard import Guard
from tspo_cli.rollout.engines.vllm_engine.vllm_messages import GUARD

TOKEN = "a-token-that-only-we-know"
CONTROL = [
    "/collective_rpc",
    "/pause",
    "/resume",
    "/sleep",
    "/wake_up",
    "/update_weights",
    "/init_weight_transfer_engine",
    "/update_weight_version",
    "/inference/v1/generate",
    "/v1/completions",
    "/reset_prefix_cache",
    "/a-route-of-tomorrow",
]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> TestClient:
    """An application that answers everything, behind the guard."""

    async def answer(request: Request) -> Response:
        return PlainTextResponse("done")

    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()

    monkeypatch.setenv("TSPO_ENGINE_TOKEN", TOKEN)
    methods = ["GET", "POST", "PUT", "DELETE"]
    routes = [WebSocketRoute("/v1/realtime", talk), Route("/{path:path}", answer, methods=methods)]
    app = Starlette(routes=routes)
    app.add_middleware(Guard)
    return TestClient(app)


@pytest.mark.parametrize("path", CONTROL)
@pytest.mark.parametrize(
    "given",
    [
        "",
        TOKEN,
        f"Basic {TOKEN}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        "Bearer ",
        "Bearer ü",
    ],
)
def test_control_without_the_token_gets_401(server: TestClient, path: str, given: str) -> None:
    headers = [(b"authorization", given.encode())] if given else []
    answer = server.post(path, headers=headers)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert TOKEN not in answer.text
    assert server.post(path, headers={"Authorization": f"Bearer {TOKEN}"}).text == "done"


def test_only_health_is_open(server: TestClient) -> None:
    assert server.get("/health").status_code == 200
    others = ["/health/", "//health", "/health/../pause", "/HEALTH", "/metrics", "/v1/models", "/"]
    assert {path: server.get(path).status_code for path in others} == dict.fromkeys(others, 401)
    for call in (server.post, server.put, server.delete):
        assert call("/health").status_code == 401
    twice = [("Authorization", f"Bearer {TOKEN}"), ("Authorization", "Bearer another")]
    assert server.get("/metrics", headers=twice).status_code == 401


def test_a_websocket_needs_the_token_too(server: TestClient) -> None:
    with pytest.raises(WebSocketDisconnect), server.websocket_connect("/v1/realtime"):
        pass
    with server.websocket_connect("/v1/realtime", headers={"Authorization": f"Bearer {TOKEN}"}):
        pass


def test_a_guard_without_a_token_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TSPO_ENGINE_TOKEN", raising=False)
    with pytest.raises(RuntimeError, match="TSPO_ENGINE_TOKEN is not set"):
        Guard(Starlette())


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7"])
def test_an_open_server_without_a_token_is_refused(host: str) -> None:
    done = run_tspo("engine", "model", "--host", host)
    assert (done.code, done.out) == (2, "")
    assert f"--host {host}: other machines can reach this address" in done.err
    assert "TSPO_ENGINE_TOKEN" in done.err


def test_a_token_that_can_be_guessed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("guess-me")
    done = run_tspo("engine", "model", "--token-file", tmp_path / "token")
    assert done.code == 3
    assert "16 or more" in done.err
    assert "guess-me" not in done.err


@pytest.mark.parametrize("token", [TOKEN, ""])
def test_the_token_goes_to_the_server_by_its_environment(
    token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No option after -- opens the server, and no list of processes shows the token."""
    started: list[tuple[list[str], dict[str, str]]] = []

    def execve(program: str, arguments: list[str], variables: dict[str, str]) -> None:
        started.append((arguments, variables))

    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.setattr(engine_command, "require", lambda *_: None)
    monkeypatch.setenv("TSPO_ENGINE_TOKEN", token)
    words = ["engine", "model", "--port", "8123", "--", "--host", "0.0.0.0", "--port", "1"]
    done = CliRunner().invoke(tspo_app, words)
    assert done.exit_code == 0, done.output
    ((arguments, variables),) = started
    assert _last(arguments, "--host") == "127.0.0.1"
    assert _last(arguments, "--port") == "8123"
    assert variables["TSPO_ENGINE_TOKEN"] == token
    assert ("--middleware" in arguments) == bool(token)
    if token:
        assert _last(arguments, "--middleware") == GUARD
        assert not any(token in word for word in [*arguments, done.output])
    module, name = GUARD.rsplit(".", 1)
    assert (module, name) == (Guard.__module__, Guard.__name__)


def _last(words: list[Any], option: str) -> Any:
    return words[len(words) - words[::-1].index(option)]
