"""`tspo serve` as its own process, stopped by signals."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from inspect import signature
from pathlib import Path

import httpx
import pytest
import typer
from typer.testing import CliRunner

from tests.conftest import run_tspo
from tspo_cli.commands.serve import serve
from tspo_cli.errors import (
    InvalidInputError,
    MissingResourceError,
    RemoteServiceError,
    UsageError,
)
from tspo_cli.retrieval.index.build_index import build_index
from tspo_cli.retrieval.index.searcher import open_index
from tspo_cli.retrieval.remote.http_client import HttpRetriever
from tspo_cli.retrieval.server.http_app import ServiceSettings
from tspo_cli.retrieval.server.listen import listen

app = typer.Typer()
app.command("serve")(serve)
PROGRAM = "import typer; from tspo_cli.commands.serve import serve; typer.run(serve)"


@pytest.fixture
def index(tmp_path: Path) -> Path:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text(
        "".join(
            json.dumps({"id": f"p{i}", "contents": f'"T{i}"\nlake {i}'}) + "\n" for i in range(9)
        )
    )
    build_index(corpus, tmp_path / "index")
    return tmp_path / "index"


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129), (signal.SIGUSR1, 138)],
)
def test_serves_until_it_is_output_to_stop(
    index: Path, number: signal.Signals, status: int
) -> None:
    arguments = [str(index), "--port", "0", "--k", "4", "--json"]
    command = [sys.executable, "-m", "tspo_cli", "serve", *arguments]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        listening = process.stderr.readline()
        output = ""
        for line in process.stdout:
            output += line
            if line == "}\n":
                break
        served = json.loads(output)
        assert f"on {served['url']}/retrieve" in listening
        assert (served["passages"], served["k"]) == (9, 4)
        client = HttpRetriever([served["url"]], timeout=10, retries=0)
        client.check()
        assert client.search(["lake 7", "lake"], 3) == open_index(index).search(
            ["lake 7", "lake"], 3
        )
        client.close()
        process.send_signal(number)
        assert process.wait(timeout=30) == status
        assert "Traceback" not in process.stderr.read()


def test_a_port_in_use_is_said_before_the_index_is_looked_at(tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        result = CliRunner().invoke(app, [str(tmp_path / "no-index"), "--port", str(port)])
    assert isinstance(result.exception, MissingResourceError)
    assert f"127.0.0.1:{port}: address already in use" in str(result.exception)


def test_a_missing_index_is_named(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [str(tmp_path / "no-index"), "--port", "0"])
    assert isinstance(result.exception, MissingResourceError)
    assert "no such index" in str(result.exception)


def test_search_settings_reach_the_index(index: Path) -> None:
    done = run_tspo("serve", index, "--port", 0, "--set", "rerank_dept=5", timeout=60)
    assert done.code == 3
    assert "'rerank_dept': unknown for this kind of index; did you mean rerank_depth?" in done.err
    result = CliRunner().invoke(app, [str(index), "--port", "0", "--set", "reranker"])
    assert isinstance(result.exception, UsageError)
    assert "expected KEY=VALUE" in str(result.exception)


def test_other_addresses_need_a_token(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TSPO_RETRIEVER_TOKEN", raising=False)
    arguments = [str(index), "--host", "0.0.0.0", "--port", "0"]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, UsageError)
    assert "--token-file FILE or set TSPO_RETRIEVER_TOKEN" in str(result.exception)
    (tmp_path / "token").write_text("short")
    result = CliRunner().invoke(app, [*arguments, "--token-file", str(tmp_path / "token")])
    assert isinstance(result.exception, InvalidInputError)


def test_a_token_opens_other_addresses(index: Path) -> None:
    command = [
        sys.executable,
        "-c",
        PROGRAM,
        str(index),
        "--host",
        "0.0.0.0",
        "--port",
        "0",
        "--json",
    ]
    token = "a-token-from-the-environment"
    environment = {**os.environ, "TSPO_RETRIEVER_TOKEN": token}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        listening = process.stderr.readline()
        url = listening.split(" on ")[1].split("/retrieve")[0].replace("0.0.0.0", "127.0.0.1")
        assert (
            HttpRetriever([url], timeout=10, retries=0, token=token).search(["lake"], 2)[0].error
            is None
        )
        with pytest.raises(RemoteServiceError, match="status 401"):
            HttpRetriever([url], timeout=10, retries=0).search(["lake"], 2)
        process.terminate()
        assert token not in listening + process.stdout.read() + process.stderr.read()


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such limit")
def test_more_connections_than_files_are_said_once_and_wait(index: Path) -> None:
    serve = [sys.executable, "-c", PROGRAM, str(index), "--port", "0"]
    command = ["/bin/sh", "-c", 'ulimit -n 64; exec "$@"', "sh", *serve]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        url = httpx.URL(process.stderr.readline().split(" on ")[1].split("/retrieve")[0])
        connections = [socket.create_connection((url.host, url.port)) for _ in range(120)]
        said = process.stderr.readline()
        for connection in connections:
            connection.close()
        client = HttpRetriever([str(url)], timeout=10, retries=0)
        assert client.search(["lake"], 2)[0].error is None
        client.close()
        process.terminate()
        assert "too many open files; raise the limit (ulimit -n)" in said
        assert process.stderr.read() == ""  # it was megabytes of tracebacks


def test_the_help_shows_the_limits_of_the_service() -> None:
    """The defaults are literals, because commands load no web server before they run."""
    defaults = {name: item.default for name, item in signature(serve).parameters.items()}
    limits = ServiceSettings()
    for name in ("max_k", "max_queries", "max_query_chars", "max_batch", "max_waiting", "max_wait"):
        assert defaults[name] == getattr(limits, name), name
    assert defaults["k"] == limits.default_k
    assert defaults["max_body_mb"] * 2**20 == limits.max_body
    assert defaults["cache_mb"] * 2**20 == limits.cache_bytes


def test_a_corrupt_index_ends_the_server_with_one_error(index: Path) -> None:
    """It is opened while the server already listens."""
    (index / "offsets.npy").write_bytes((index / "offsets.npy").read_bytes()[:-1])
    done = run_tspo("serve", index, "--port", 0, timeout=60)
    assert done.code == 3
    assert done.err.startswith("error: ")
    assert "offsets.npy: expected" in done.err
    assert "Traceback" not in done.err
