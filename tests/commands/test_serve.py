"""`tspo serve` as its own process, stopped by signals."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from tspo_cli.commands.serve import serve
from tspo_cli.errors import MissingResourceError
from tspo_cli.retrieval.client import HttpRetriever
from tspo_cli.retrieval.index import build_index, open_index
from tspo_cli.retrieval.service import listen

app = typer.Typer()
app.command("serve")(serve)
PROGRAM = "import typer; from tspo_cli.commands.serve import serve; typer.run(serve)"


@pytest.fixture
def index(tmp_path: Path) -> Path:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"id": f"p{i}", "contents": f'"T{i}"\nlake {i}'}) + "\n" for i in range(9)))
    build_index(corpus, tmp_path / "index")
    return tmp_path / "index"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, {-15, 143}), (signal.SIGINT, {-2, 1, 130})])
def test_serves_until_it_is_told_to_stop(index: Path, number: signal.Signals, status: set[int]) -> None:
    command = [sys.executable, "-c", PROGRAM, str(index), "--port", "0", "--k", "4", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        listening = process.stderr.readline()
        told = ""
        for line in process.stdout:
            told += line
            if line == "}\n":
                break
        said = json.loads(told)
        assert f"on {said['url']}/retrieve" in listening
        assert (said["passages"], said["k"]) == (9, 4)
        client = HttpRetriever([said["url"]], timeout=10, retries=0)
        client.check()
        assert client.search(["lake 7", "lake"], 3) == open_index(index).search(["lake 7", "lake"], 3)
        client.close()
        process.send_signal(number)
        assert process.wait(timeout=30) in status
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
