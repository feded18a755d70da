"""Defaults for every test: one thread, nothing from the network, CPU; real data where somebody put
it.
"""

from __future__ import annotations

import atexit
import fcntl
import functools
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import hypothesis
import pytest
import typer.main

from tests.command_server import CommandServer, can_fork
from tests.engine_server import TOKEN, EngineServer
from tspo_cli.text.access_token import ENGINE_TOKEN

# Set before torch and the hub libraries are imported; processes that tests start inherit them.
for _name, _value in {
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "NO_COLOR": "1",
    "COLUMNS": "120",
    "MPLBACKEND": "Agg",
}.items():
    os.environ.setdefault(_name, _value)

# The whole command line is made once in a process of tests, and not for every command: typer takes
# a quarter of a second. Here, before typer.testing takes the function.
typer.main.get_command = functools.cache(typer.main.get_command)

_server = CommandServer()
atexit.register(_server.close)

# No test depends on the clock: a busy machine must not fail a property.
# Under nohup it is ignored, and children inherit that; here they get what a terminal gives.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
hypothesis.settings.register_profile("tspo", deadline=None)
hypothesis.settings.load_profile("tspo")


def pytest_collection_finish() -> None:
    """Modules and collected tests stay to the end: the garbage collector need not look at them
    again, which takes it up to a second each time.
    """
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests that are marked `gpu` are skipped where there is none."""
    if item.get_closest_marker("gpu") is not None:
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA GPU")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real benchmark samples that TSPO_REAL_DATA names (or `shared/data` beside the
    checkout).
    """
    folder = Path(
        os.environ.get("TSPO_REAL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
    )
    if not folder.is_dir():
        pytest.skip(f"no real data: {folder} does not exist; set TSPO_REAL_DATA")
    return folder


@dataclass(frozen=True)
class Finished:
    """A tspo command that has ended."""

    code: int
    out: str
    err: str


def run_tspo(*arguments: object, cwd: Path | None = None, timeout: float = 600) -> Finished:
    """Run tspo as a user does, in a process of its own."""
    if can_fork():
        with TemporaryDirectory() as folder:
            out, err = Path(folder, "out"), Path(folder, "err")
            command = [str(part) for part in arguments]
            (code,) = _server.run(command, cwd=cwd, out=out, err=err, timeout=timeout)
            return Finished(code, out.read_text("utf-8"), err.read_text("utf-8"))
    command = [sys.executable, "-m", "tspo_cli", *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False
    )
    return Finished(done.returncode, done.stdout, done.stderr)


def run_prepared(
    prepare: str,
    *arguments: object,
    ranks: int = 1,
    timeout: float = 60,
    cwd: Path | None = None,
) -> tuple[list[int], str]:
    """Exit codes and messages of a tspo command in `ranks` processes, as a launcher starts them.
    `prepare`, "module:function:argument:...", is called in each before.
    """
    if not can_fork():
        pytest.skip("needs processes that can fork after torch is imported")
    command = [str(part) for part in arguments]
    codes, _, errors = run_forked(prepare, command, ranks=ranks, timeout=timeout, cwd=cwd)
    return codes, errors


def run_forked(
    prepare: str,
    command: Sequence[str] = (),
    *,
    ranks: int = 1,
    timeout: float = 60,
    cwd: Path | None = None,
) -> tuple[list[int], str, str]:
    """Exit codes, output and messages of processes that call `prepare` and then are the command, if
    `prepare` returns. Only where processes can fork.
    """
    with TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        codes = _server.run(
            list(command), cwd=cwd, out=out, err=err, timeout=timeout, prepare=prepare, ranks=ranks
        )
        return codes, out.read_text("utf-8"), err.read_text("utf-8")


class StartedTspo:
    """A tspo command that runs meanwhile, with the methods of `subprocess.Popen` that tests use."""

    def __init__(self, *arguments: object, cwd: Path | None = None) -> None:
        self.folder = TemporaryDirectory()
        out, err = (Path(self.folder.name, name) for name in ("out", "err"))
        self.errors = err
        self.returncode: int | None = None
        command = [str(part) for part in arguments]
        if can_fork():
            self.pid = _server.start(command, cwd=cwd, out=out, err=err)
            self._poll: Callable[[], int | None] = lambda: _server.poll(self.pid)
            return
        with out.open("wb") as output, err.open("wb") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", "tspo_cli", *command], cwd=cwd, stdout=output, stderr=errors
            )
        self.pid, self._poll = process.pid, process.poll

    def poll(self) -> int | None:
        """Exit code of the command, None while it runs."""
        if self.returncode is None:
            self.returncode = self._poll()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = 240) -> int:
        """Wait for its end; returns its exit code."""
        until = time.monotonic() + timeout
        while (code := self.poll()) is None:
            assert time.monotonic() < until, "it does not end"
            time.sleep(0.005)
        return code

    def said(self) -> str:
        """What it has written to stderr."""
        return self.errors.read_text("utf-8") if self.errors.exists() else ""


@pytest.fixture(scope="session")
def tspo() -> Callable[..., Finished]:
    """Run a command that has to succeed."""

    def run(*arguments: object, **options: Any) -> Finished:
        done = run_tspo(*arguments, **options)
        assert done.code == 0, done.err[-3000:]
        return done

    return run


@dataclass(frozen=True)
class Playground:
    """A small world, its index, and a policy that has hardly learnt anything."""

    world: Path
    index: Path
    model: Path

    def settings(self, **more: object) -> list[str]:
        """`--set` options of an RL run on this world that takes seconds."""
        values = {
            "model.path": self.model,
            "retriever.index": self.index,
            "retriever.k": 2,
            "data.train": json.dumps([str(self.world / "train.jsonl")]),
            "eval.data": json.dumps([str(self.world / "test.jsonl")]),
            "eval.limit": 6,
            "rollout.prompt": "short",
            "rollout.max_searches": 2,
            "rollout.max_new_tokens": 16,
            "rollout.max_observation_tokens": 96,
            "rollout.questions_per_step": 4,
            "rollout.group_size": 3,
            "optimizer.lr": 0.001,
            **{key.replace("__", "."): value for key, value in more.items()},
        }
        return [part for key, value in values.items() for part in ("--set", f"{key}={value}")]


def made_once(
    tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]
) -> Path:
    """The folder `name` that `make` has filled, the same one for all test processes of this run."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, done = base / name, base / f"{name}.done"
    with (base / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def playground(
    tmp_path_factory: pytest.TempPathFactory, tspo: Callable[..., Finished]
) -> Playground:
    """Made once: `tspo data make-world`, `tspo index build` and a short `tspo train` of an SFT
    experiment.
    """

    def make(root: Path) -> None:
        world, index = root / "world", root / "index"
        sizes = ["--entities", 80, "--test-entities", 60]
        sizes += ["--train-questions", 60, "--test-questions", 20]
        tspo("data", "make-world", "--out", world, *sizes)
        tspo("index", "build", world / "corpus.jsonl", "--out", index)
        values = {
            "data.world": world,
            "retriever.index": index,
            "eval.data": "[]",
            "train.steps": 60,
            "optimizer.warmup": 5,
        }
        settings = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
        tspo("train", "tiny/warmstart", "--out", root / "warmstart", *settings)

    root = made_once(tmp_path_factory, "playground", make)
    return Playground(root / "world", root / "index", root / "warmstart" / "model")


@pytest.fixture(scope="session")
def started_servers(
    playground: Playground, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sequence[EngineServer]]:
    """What `servers` gives, as earlier tests left them."""
    folder = tmp_path_factory.mktemp("servers")
    made = [EngineServer(playground.model, folder / f"log_{number}.txt") for number in range(2)]
    for server in made:
        server.start()
    try:
        for server in made:
            server.wait()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(ENGINE_TOKEN, TOKEN)
            yield made
    finally:
        for server in made:
            server.kill()


@pytest.fixture
def servers(started_servers: Sequence[EngineServer]) -> Sequence[EngineServer]:
    """Two vLLM servers with the policy of the playground, whose token runs have in their
    environment. One that an earlier test killed is started again. Needs vLLM.
    """
    for server in started_servers:
        if server.process.poll() is not None:
            server.start()
            server.wait()
    return started_servers
