"""Runs with their servers: on a cluster of local processes with a requeue, and `tspo launch`."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.command_server import can_fork
from tests.conftest import Finished, Playground, run_prepared, run_tspo
from tests.training.launch.fake_slurm import FakeSlurm
from tspo_cli.runs import read_json, read_jsonl

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
Tspo = Callable[..., Finished]


def words(playground: Playground, **more: object) -> list[str]:
    values = {"train__steps": 3, "eval__every": 0, "checkpoint__every": 1, "eval__data": "[]"}
    return ["tiny/grpo", *playground.settings(**{**values, **more})]


def steps(run: Path) -> int:
    path = run / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def same_weights(one: Path, other: Path) -> bool:
    left, right = (load_file(run / "model" / "model.safetensors") for run in (one, other))
    return left.keys() == right.keys() and all(left[name].equal(right[name]) for name in left)


def listening(url: str) -> bool:
    host, _, port = url.removeprefix("http://").partition(":")
    with socket.socket() as client:
        client.settimeout(1)
        return client.connect_ex((host, int(port))) == 0


def test_a_slurm_job_goes_on_where_it_was_stopped(
    playground: Playground, tspo: Tspo, tmp_path: Path
) -> None:
    """Two nodes with one process each and a retriever on the first; the job's time ends once."""
    options = words(playground, launch__retriever="first", launch__processes=1, train__steps=4)
    printed = tspo(
        *("train", *options, "--out", tmp_path / "run"),
        *("--print-launch", "slurm", "--nodes", 2, "--gpus", 0),
    )
    script = tmp_path / "job.sh"
    script.write_text(printed.out)
    slurm = FakeSlurm(tmp_path, ["127.0.0.1", "127.0.0.2"])
    codes = slurm.run(script, 4711, stop=lambda: steps(tmp_path / "run") >= 2)
    log = (tmp_path / "run.4711.log").read_text()
    assert len(codes) == 2, log[-3000:]
    assert codes[0] > 128
    assert codes[1] == 0, log[-3000:]
    status = read_json(tmp_path / "run" / "status.json")
    assert (status["state"], status["step"]) == ("finished", 4)
    assert [row["step"] for row in read_jsonl(tmp_path / "run" / "metrics.jsonl")] == [1, 2, 3, 4]
    (change,) = read_jsonl(tmp_path / "run" / "changes.jsonl")
    before, now = change["changes"]["retriever.url"]
    assert before != now, "the second attempt has other ports"
    assert not any(listening(url) for url in (*before, *now)), "servers end with the job"
    whole = tmp_path / "whole"
    command = ["train", *words(playground, train__steps=4), "--out", whole]
    if can_fork():
        codes, said = run_prepared("", *command, ranks=2, timeout=240)
        assert codes == [0, 0], said[-3000:]
    else:
        tspo(*command, "--set", "train.processes=2")
    assert same_weights(tmp_path / "run", whole)
    assert "TOKEN" not in log


def launch(*arguments: object, folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tspo_cli", "launch", *map(str, arguments)]
    variables = {**os.environ, "TSPO_RETRIEVER_TOKEN": ""}
    return subprocess.Popen(
        command,
        cwd=folder,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def children(process: subprocess.Popen[str], word: bytes) -> list[int]:
    """The processes that it started with this word on their command line."""
    found = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [
        int(child)
        for child in found
        if b"\0" + word + b"\0" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]


def wait_until(condition: Callable[[], object], seconds: float = 400) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_launch_keeps_its_retriever_up_and_passes_signals_on(
    playground: Playground, tmp_path: Path
) -> None:
    """The retriever is killed meanwhile; the training waits for it and then is stopped."""
    run = tmp_path / "run"
    options = words(playground, launch__retriever="first", train__steps=3000)
    process = launch(*options, "--out", run, "--gpus", 0, folder=tmp_path)
    wait_until(lambda: process.poll() is not None or steps(run) >= 2)
    assert process.poll() is None, process.communicate()[1][-3000:]
    (url,) = read_json(run / "config.resolved.json")["retriever"]["url"]
    (server,) = children(process, b"serve")
    os.kill(server, signal.SIGKILL)
    made = steps(run)
    wait_until(lambda: process.poll() is not None or steps(run) >= made + 3)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=400)
    assert process.returncode == 143, errors[-3000:]
    assert "retriever_0 ended with -9; it is started again" in errors
    assert read_json(run / "status.json")["state"] == "stopped"
    assert (run / "launch" / "retriever_0.log").exists()
    assert not listening(url)


def test_no_server_outlives_a_launch_that_is_killed(playground: Playground, tmp_path: Path) -> None:
    options = words(playground, launch__retriever="first")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port + 1}"
    place = ["--out", tmp_path / "run", "--gpus", 0, "--port", port]
    process = launch(*options, *place, folder=tmp_path)
    wait_until(lambda: process.poll() is not None or listening(url))
    process.kill()
    process.communicate()
    wait_until(lambda: not listening(url), 30)


def test_a_server_that_cannot_start_ends_the_launch(playground: Playground, tmp_path: Path) -> None:
    """In one line, with what the server said, before anything is trained."""
    broken = {"launch__retriever": "first", "retriever__index": tmp_path / "nowhere"}
    done = run_tspo("launch", *words(playground, **broken), "--out", tmp_path / "run")
    assert done.code == 5
    last = done.err.strip().splitlines()[-1]
    assert last.startswith("error: retriever_0: ended with 4 before it was ready: ")
    assert "nowhere" in last
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--hosts", "a,b"], "--port and --job"),
        (["--hosts", "a,b", "--node", "2", "--port", "9000", "--job", "x"], "--hosts names 2"),
        (["--resume", "--overwrite"], "exclude each other"),
        (
            ["--hosts", "a,b", "--port", "9000", "--job", "x", "--set", "launch.retriever=first"],
            "TSPO_RETRIEVER_TOKEN is not set",
        ),
    ],
)
def test_a_launch_that_cannot_work_is_refused(options: list[str], problem: str) -> None:
    done = run_tspo("launch", "tiny/grpo", "--gpus", 0, *options)
    assert (done.code, done.out) == (2, "")
    assert problem in done.err


def test_a_dry_run_shows_servers_and_training(playground: Playground, tmp_path: Path) -> None:
    options = words(playground, launch__retriever="first", launch__retriever_gpus="[1]")
    done = run_tspo("launch", *options, "--gpus", 2, "--dry-run", "--json", cwd=tmp_path)
    shown = json.loads(done.out)
    assert [server["gpus"] for server in shown["servers"]] == [[1]]
    assert shown["training"]["gpus"] == [0]
    assert [*tmp_path.iterdir()] == []


def test_a_dry_run_of_several_nodes_needs_no_port(playground: Playground, tmp_path: Path) -> None:
    options = [*words(playground, launch__retriever="each"), "--gpus", 2, "--hosts", "a,b"]
    done = run_tspo("launch", *options, "--dry-run", "--json", cwd=tmp_path)
    assert [server["host"] for server in json.loads(done.out)["servers"]] == ["a", "b"]
