"""Rollouts one step ahead: which weights sample them, how they are corrected, and how a stopped run
resumes.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from tests.conftest import Finished, Playground
from tspo_cli.config.load_config import load_config
from tspo_cli.errors import InvalidInputError
from tspo_cli.runs import read_jsonl, read_jsonl_gz
from tspo_cli.training.core.sequences import TrainSequence
from tspo_cli.training.rl.background import in_background, refuse_unsafe_background
from tspo_cli.training.rl.off_policy import importance_weights

Tspo = Callable[..., Finished]
ONE_TURN_EACH = TrainSequence(
    [5, 6, 7, 8, 9], [0, 1, 1, 0, 1], [0, 1, 1, 0, 2], [0, -1, -2, 0, -3], [-1, 0, 0, -1, 1]
)


@pytest.mark.parametrize(
    ("ratio", "wanted"),
    [
        ("token", [0, math.log(2), 0.0, 0, -1.0]),
        ("turn", [0, math.log(2) / 2, math.log(2) / 2, 0, -1.0]),
        ("sequence", [0, *[(math.log(2) - 1) / 3] * 2, 0, (math.log(2) - 1) / 3]),
    ],
)
def test_importance_weights(ratio: str, wanted: list[float]) -> None:
    now = [0.0, -1 + math.log(2), -2.0, 0.0, -4.0]
    found = importance_weights(ONE_TURN_EACH, now, ratio)
    assert found == pytest.approx([math.exp(value) for value in wanted])


def test_work_goes_on_beside_the_body_and_stops_with_it() -> None:
    started, stopped = threading.Event(), threading.Event()

    def until_stopped(stop: threading.Event) -> str:
        started.set()
        if stop.wait(timeout=20):
            stopped.set()
        return "gave up"

    def interrupted() -> None:
        with in_background(until_stopped):
            assert started.wait(timeout=20)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert stopped.is_set()
    with in_background(lambda stop: "done") as result:
        assert result() == "done"


def test_errors_of_the_other_thread_arrive() -> None:
    def fail(stop: threading.Event) -> None:
        raise ValueError("no retriever")

    with pytest.raises(ValueError, match="no retriever"), in_background(fail) as result:
        result()


class Gpu:
    """Notes what CUDA is asked for, and in which thread. It computes nothing."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, device: int) -> None:
        self.calls: list[tuple[str, bool]] = []
        gpu, main = self, threading.current_thread()

        def note(what: str) -> None:
            gpu.calls.append((what, threading.current_thread() is main))

        class Stream:
            def __init__(self, device: int) -> None:
                note(f"stream on {device}")

            def record_event(self) -> str:
                note("record")
                return "event"

            def wait_event(self, event: str) -> None:
                note(f"wait for {event}")

            def synchronize(self) -> None:
                note("synchronise")

        @contextmanager
        def on(stream: Stream) -> Iterator[None]:
            note("enter stream")
            yield
            note("leave stream")

        fakes = {
            "is_available": lambda: True,
            "current_device": lambda: device,
            "current_stream": lambda device=0: Stream(device),
            "set_device": lambda number: note(f"device {number}"),
            "Stream": Stream,
            "stream": on,
        }
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)
        self.note = note


def test_on_a_gpu_the_other_thread_has_the_device_and_a_stream_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What only a GPU can show is whether both then run at once."""
    gpu = Gpu(monkeypatch, device=3)
    with in_background(lambda stop: gpu.note("work")) as result:
        result()
    here = [what for what, is_main in gpu.calls if is_main]
    there = [what for what, is_main in gpu.calls if not is_main]
    assert here == ["stream on 3", "stream on 3", "record"]
    assert there == [
        *("device 3", "enter stream", "wait for event", "work", "leave stream", "synchronise"),
    ]


def test_an_engine_that_is_bound_to_its_thread_is_refused_on_a_gpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ahead, vllm = "rollout.one_step_off=true", "rollout.engine=vllm"
    servers = 'vllm.url=["http://127.0.0.1:8100"]'
    refuse_unsafe_background(load_config([], [ahead, vllm]))  # a CPU has one device
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for settings in ([ahead], [vllm], [ahead, vllm, servers]):
        refuse_unsafe_background(load_config([], settings))
    with pytest.raises(InvalidInputError, match=r"rollout.one_step_off.*vllm.url"):
        refuse_unsafe_background(load_config([], [ahead, vllm]))


def settings(playground: Playground, **more: object) -> list[str]:
    options = {
        "train__steps": 5,
        "checkpoint__every": 3,
        "rollout__one_step_off": "true",
        "credit__outcome": "em_format",
    }
    return playground.settings(**{**options, **more})


@pytest.fixture(scope="module")
def straight(playground: Playground, tspo: Tspo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("ahead") / "straight"
    tspo("train", "tiny/grpo", "--out", run, *settings(playground))
    return run


@pytest.mark.slow
def test_rollouts_come_from_the_weights_before(straight: Path) -> None:
    """Step 4 comes after a checkpoint: on-policy, like the first."""
    rows = list(read_jsonl(straight / "metrics.jsonl"))
    assert [row["staleness"] for row in rows] == [0, 1, 1, 0, 1]
    for row in rows:
        assert row["mixed_share"] == 0
        assert row["handover_parity"] < 1e-4
        assert ("parity" in row) == (row["staleness"] == 0)
        assert ("importance_mean" in row) == (row["staleness"] == 1)
    for row in (rows[1], rows[4]):
        assert row["importance_mean"] == pytest.approx(1, abs=0.2)
        assert row["importance_max"] >= row["importance_mean"]
        assert 0 < row["drift"] < 1
    for row in rows:
        for group in read_jsonl_gz(straight / "rollouts" / f"step_{row['step']:06}.jsonl.gz"):
            versions = {rollout["weight_version"] for rollout in group["trajectories"]}
            assert versions == {row["step"] - 1 - row["staleness"]}


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_the_same(
    straight: Path, playground: Playground, tspo: Tspo, tmp_path: Path
) -> None:
    run = tmp_path / "stopped"
    tspo("train", "tiny/grpo", "--out", run, *settings(playground, train__steps=3))
    tspo("train", "tiny/grpo", "--out", run, "--resume", *settings(playground))
    assert read_jsonl(run / "metrics.jsonl") == read_jsonl(straight / "metrics.jsonl")
    assert (run / "model/model.safetensors").read_bytes() == (
        straight / "model/model.safetensors"
    ).read_bytes()
