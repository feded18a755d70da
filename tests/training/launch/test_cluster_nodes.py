"""Nodes of a launch beside each other: when they end, what reaches their processes, and what is
refused. Servers and trainings are small programs, so that all of it takes seconds.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import run_tspo
from tspo_cli.training.launch.nodes.cluster import Signals
from tspo_cli.training.launch.nodes.first_node import sign_file

# In the place of an environment's Python: a server answers 200 everywhere, a training writes its
# variables and goes on until the file `end` is there.
_PROGRAM = """#!{python}
import http.server, json, os, pathlib, sys, time
module, arguments = sys.argv[2], sys.argv[4:]
folder = pathlib.Path({folder!r})
if module.endswith("server_process"):
    class Ready(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
    if arguments[0] == "serve" and (folder / "broken").exists():
        sys.exit("error: no such index")
    at = [arguments[arguments.index(name) + 1] for name in ("--host", "--port")]
    http.server.HTTPServer((at[0], int(at[1])), Ready).serve_forever()
made = folder / f"variables{{os.getpid()}}.tmp"
made.write_text(json.dumps(dict(os.environ)))
made.rename(folder / f"variables{{os.environ.get('RANK', '')}}.json")
while not (folder / "end").exists():
    time.sleep(0.05)
"""
_LAUNCH = """
import sys
from tspo_cli.training.launch.nodes import cluster, first_node
first_node.SILENCE = 3.0
first_node.FIRST_WORD = 1.0
cluster.ALONE = 3.0
sys.argv[0] = "tspo"
from tspo_cli.commands.app import main
main()
"""
ENGINES = ("rollout.engine=vllm", "launch.engines=1", "launch.engine_nodes=1")
TOKENS = ("TSPO_ENGINE_TOKEN", "TSPO_RETRIEVER_TOKEN")
RETRIEVER = ("launch.retriever=first", "retriever.index=somewhere")


def wait_until(condition: Callable[[], object], seconds: float = 100) -> None:
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


class Cluster:
    """Two nodes on this machine; the second one serves."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run, self.end = folder / "run", folder / "end"
        self.serves, self.settings = True, ENGINES
        self.started: list[subprocess.Popen[str]] = []
        program = folder / "venv" / "bin" / "python"
        program.parent.mkdir(parents=True)
        program.write_text(_PROGRAM.format(python=sys.executable, folder=str(folder)))
        program.chmod(0o755)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1] % 20000 + 10000

    def variables(self, node: int = 0) -> Path:
        """What the training on a node writes. On one node alone it has no rank."""
        return self.folder / f"variables{'' if self.serves else node}.json"

    def trains(self, node: int = 0) -> bool:
        return self.variables(node).exists()

    def sign(self) -> bytes:
        """The newest sign of life of the first node."""
        return sign_file(self.run / "launch", "1").read_bytes()

    def arguments(self, *settings: str) -> list[str]:
        settings = (*settings, f"launch.environment={self.folder / 'venv'}")
        words = [word for setting in settings for word in ("--set", setting)]
        return ["launch", "tiny/grpo", *words, "--out", str(self.run)]

    def node(self, number: int) -> subprocess.Popen[str]:
        place = ["--hosts", "127.0.0.1,127.0.0.2", "--node", str(number), "--job", "1"]
        settings = self.settings if self.serves else ()
        words = [*self.arguments(*settings), "--gpus", "0", "--port", str(self.port), *place]
        process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCH, *words],
            env={**os.environ, **dict.fromkeys(TOKENS, "a-token-of-all-nodes")},
            stderr=subprocess.PIPE,
            text=True,
        )
        self.started.append(process)
        return process


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    made.end.touch()
    for process in made.started:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=60)


def test_a_launch_with_the_name_of_an_earlier_one(cluster: Cluster) -> None:
    """The torchrun lines of --print-launch call every launch 1. A node that serves stays until this
    training has ended, not the one before.
    """
    cluster.end.touch()
    first = [cluster.node(number) for number in range(2)]
    assert [process.wait(100) for process in first] == [0, 0]
    cluster.end.unlink()
    cluster.variables().unlink()
    serving = cluster.node(1)
    training = cluster.node(0)
    wait_until(lambda: cluster.trains() or serving.poll() is not None)
    time.sleep(2.5)
    assert serving.poll() is None, serving.communicate()[1]
    cluster.end.touch()
    assert [training.wait(100), serving.wait(100)] == [0, 0]


def test_a_node_that_serves_ends_when_the_first_one_is_lost(cluster: Cluster) -> None:
    nodes = [cluster.node(number) for number in range(2)]
    wait_until(lambda: cluster.trains() or any(node.poll() is not None for node in nodes))
    # The first sign that the other node found may be of an earlier launch. The next one is not.
    sign = cluster.sign()
    wait_until(lambda: cluster.sign() != sign)
    nodes[0].kill()
    assert nodes[1].wait(60) == 1
    last = nodes[1].communicate()[1].strip().splitlines()[-1]
    assert last.startswith("error: 127.0.0.1, the first node, gave no sign of life for 3 s"), last


def test_a_node_does_not_train_without_the_first(cluster: Cluster) -> None:
    """The first process was refused before the others met it, which wait for an hour then."""
    cluster.serves = False
    nodes = [cluster.node(number) for number in range(2)]
    wait_until(lambda: all(cluster.trains(node) for node in range(2)))
    nodes[0].terminate()
    assert nodes[0].wait(60) == 128 + signal.SIGTERM
    assert nodes[1].wait(60) == 1
    last = nodes[1].communicate()[1].strip().splitlines()[-1]
    assert last.startswith(
        "error: 127.0.0.1, the first node, has ended with exit code 143; the training of this one"
    ), last


def test_a_node_that_waits_for_servers_ends_with_the_first(cluster: Cluster) -> None:
    """Not when its patience for servers (launch.wait, half an hour) is over."""
    cluster.settings = (*ENGINES, *RETRIEVER)
    (cluster.folder / "broken").touch()
    serving = cluster.node(1)
    assert serving.stderr is not None
    assert "waiting for retriever_0, engine_0, for up to 1800 s" in serving.stderr.readline()
    first = cluster.node(0)
    assert first.wait(60) == 5
    assert serving.wait(30) == 1
    last = serving.communicate()[1].strip().splitlines()[-1]
    assert last.startswith("error: 127.0.0.1, the first node, has ended with exit code 5: retri")
    assert "no such index" in last


def test_a_first_node_that_failed_before_another_one_started(cluster: Cluster) -> None:
    """It may have been an earlier launch: the other node says so at once, and waits."""
    cluster.settings = (*ENGINES, *RETRIEVER)
    (cluster.folder / "broken").touch()
    assert cluster.node(0).wait(60) == 5
    serving = cluster.node(1)
    assert serving.stderr is not None
    told = serving.stderr.readline()
    assert told.startswith("warning: 127.0.0.1, the first node, has ended with exit code 5: retr")
    assert "If that was this launch, end this node too" in told
    (cluster.folder / "broken").unlink()
    cluster.end.touch()
    assert [cluster.node(0).wait(60), serving.wait(60)] == [0, 0]


def test_a_node_says_that_it_waits_for_the_first(cluster: Cluster) -> None:
    serving = cluster.node(1)
    assert serving.stderr is not None
    lines = [serving.stderr.readline() for _ in range(3)]
    assert any("waiting for a sign of life of 127.0.0.1, the first node" in line for line in lines)
    serving.terminate()
    assert serving.wait(30) == 143


def test_a_job_around_a_launch_of_one_node(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SLURM_NODEID is that of several nodes, and says which option it stands for."""
    monkeypatch.setenv("SLURM_NODEID", "x")
    options = [*cluster.arguments(), "--gpus", "0", "--dry-run"]
    assert run_tspo(*options).code == 0
    several = ["--hosts", "a,b", "--port", "9000", "--job", "x"]
    done = run_tspo(*options, *several)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "SLURM_NODEID: expected a whole number, got 'x'" in done.err
    monkeypatch.setenv("SLURM_NODEID", "2")
    assert "SLURM_NODEID 2: --hosts names 2" in run_tspo(*options, *several).err


def test_variables_of_an_outer_launcher_stay_outside(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a container platform or a torchrun around it: this launch has processes of its own."""
    outer = {"RANK": "3", "LOCAL_RANK": "3", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "8"}
    outer |= {"MASTER_ADDR": "elsewhere", "MASTER_PORT": "1", "TORCHELASTIC_RUN_ID": "x"}
    for name, value in outer.items():
        monkeypatch.setenv(name, value)
    cluster.end.touch()
    done = subprocess.run(
        [sys.executable, "-m", "tspo_cli", *cluster.arguments(), "--gpus", "0"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads((cluster.folder / "variables.json").read_text())
    assert [name for name in outer if name in seen] == []


def test_a_signal_before_the_training_began_reaches_it() -> None:
    """It came when all servers were ready and no training process was there yet."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        signals.hand_to([child])
        assert child.wait(30) == -signal.SIGUSR1


@pytest.mark.parametrize(
    ("visible", "gpus", "problem"),
    [
        ("0,1", "4", "--gpus 4: CUDA_VISIBLE_DEVICES shows 2 here"),
        ("-1", "1", "--gpus 1: CUDA_VISIBLE_DEVICES shows 0 here"),
        ("", "1", "--gpus 1: CUDA_VISIBLE_DEVICES shows 0 here"),
    ],
)
def test_gpus_that_this_node_does_not_show(
    visible: str, gpus: str, problem: str, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    done = run_tspo(*cluster.arguments(), "--gpus", gpus)
    assert (done.code, done.err.count("\n")) == (4, 1)
    assert problem in done.err


@pytest.mark.parametrize("visible", ["-1", "", "NoDevFiles"])
def test_hidden_gpus_are_none(
    visible: str, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    done = run_tspo(*cluster.arguments(), "--dry-run", "--json")
    assert json.loads(done.out)["training"]["gpus"] == []


@pytest.mark.parametrize("job", ["a/b", "../x", "*", ".hidden", "two words", "x" * 300])
def test_names_of_launches_that_are_no_names(job: str, cluster: Cluster) -> None:
    done = run_tspo(*cluster.arguments(), "--gpus", "0", "--job", job)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "--job" in done.err


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--hosts", "::1,::2"], "--hosts ::1: expected names or IPv4 addresses"),
        (["--hosts", "a b,c"], "--hosts 'a b': expected names"),
        (["--hosts", "-a,c"], "--hosts -a: expected names"),
        (["--hosts", " , "], "expected names"),
        (["--port", "60000", "--set", "launch.engines=6000"], "6,000 servers need the ports"),
    ],
)
def test_addresses_that_are_none(options: list[str], problem: str, cluster: Cluster) -> None:
    words = cluster.arguments("rollout.engine=vllm")
    place = ["--gpus", "0", "--port", "9000", "--job", "x", "--dry-run"]
    done = run_tspo(*words, *place, *options)
    assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
    assert problem in done.err


def test_names_of_nodes_with_dashes(cluster: Cluster) -> None:
    place = ["--hosts", "node-01a.x, gpu_2", "--port", "9000", "--job", "x", "--gpus", "0"]
    done = run_tspo(*cluster.arguments("launch.retriever=each"), *place, "--dry-run", "--json")
    assert [server["host"] for server in json.loads(done.out)["servers"]] == ["node-01a.x", "gpu_2"]


def test_logs_are_not_written_through_a_link(cluster: Cluster, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    cluster.run.mkdir()
    (cluster.run / "launch").symlink_to(other)
    done = run_tspo(*cluster.arguments("launch.retriever=first"), "--gpus", "0")
    assert (done.code, done.err.count("\n")) == (3, 1)
    assert "expected a directory, got a link" in done.err
    assert [*other.iterdir()] == []
