"""What TensorBoard and W&B (offline) get: metrics, timings and scores, resumed in one place."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Finished, Playground, run_tspo
from tspo_cli.config.load_config import load_config
from tspo_cli.runs import read_jsonl
from tspo_cli.training.telemetry.tracking import step_values, tracker

Tspo = Callable[..., Finished]
wandb = pytest.importorskip("wandb")
pytest.importorskip("tensorboard")


def test_a_step_has_its_seconds_rates_and_memory() -> None:
    seconds, measures = {"rollout": 1.0, "total": 2.0}, {"tokens_per_second": 150.0}
    values = step_values({"tokens": 300, "loss": 0.5}, seconds, measures)
    assert values == {
        "tokens": 300,
        "loss": 0.5,
        "time/rollout": 1.0,
        "time/total": 2.0,
        "tokens_per_second": 150,
    }


def test_steps_that_come_again_replace_those_before(tmp_path: Path) -> None:
    """A run was killed before its first checkpoint, and again at step 5, after that of step 2."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = load_config(["tiny/grpo"], ["track.tensorboard=true"])
    for done, size in ((0, 2.0), (0, 1.0), (2, 10.0)):
        with tracker(config, tmp_path, is_main_process=True, done=done) as track:
            for step in range(done + (done > 0), 6 if done == 0 else 5):
                track(step, {"reward": size * step})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    seen = [(event.step, event.value) for event in events.Scalars("reward")]
    assert seen == [(0, 0.0), (1, 1.0), (2, 2.0), (3, 30.0), (4, 40.0)]


def test_the_variable_of_a_project_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """W&B's own variables say where to."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "of-the-lab")
    config = load_config(["tiny/grpo"], ["track.wandb=true"])
    with tracker(config, tmp_path, is_main_process=True, done=0):
        assert wandb.run is not None
        assert wandb.run.project == "of-the-lab"


LOST = """
import os, signal, sys, time
from pathlib import Path
from tspo_cli.config.load_config import load_config
from tspo_cli.training.telemetry.tracking import tracker
config = load_config(["tiny/grpo"], ["track.wandb=true"])
with tracker(config, Path(sys.argv[1]), is_main_process=True, done=0) as track:
    track(1, {"reward": 1.0})
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state = (folder / "stat").read_text().rpartition(")")[2].split()
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if int(state[1]) == os.getpid() and b"wandb-core" in command:
            os.kill(int(folder.name), signal.SIGKILL)
            os.waitpid(int(folder.name), 0)
    for step in range(2, 6):
        track(step, {"reward": 1.0})
        time.sleep(0.1)
print("trained")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="its processes are found in /proc")
def test_a_training_goes_on_where_the_process_of_wandb_is_killed(tmp_path: Path) -> None:
    """It ended with 200 lines of traceback, and without a checkpoint of its last steps."""
    # Without what W&B has told the processes that this one starts: they would use its process.
    others = {name: value for name, value in os.environ.items() if name[:6] != "WANDB_"}
    done = subprocess.run(
        [sys.executable, "-c", LOST, str(tmp_path)],
        env=others | {"WANDB_MODE": "offline"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "trained\n"), done.stderr
    assert done.stderr.startswith("warning: track.wandb: W&B does not take values any more (")
    assert done.stderr.count("\n") == 1, done.stderr


@pytest.mark.slow
def test_both_get_metrics_timings_and_scores(
    playground: Playground, tspo: Tspo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setenv("WANDB_MODE", "offline")
    run = tmp_path / "run"
    common = {"track__tensorboard": "true", "track__wandb": "true", "eval__every": 2}
    for steps, more in ((2, []), (3, ["--resume"])):
        options = playground.settings(train__steps=steps, **common)
        done = tspo("train", "tiny/grpo", "--json", "--out", run, *options, *more)
        assert json.loads(done.out)["step"] == steps, "W&B leaves stdout alone"
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    rewards = {event.step: event.value for event in events.Scalars("reward")}
    rows = read_jsonl(run / "metrics.jsonl")
    assert rewards == pytest.approx({row["step"]: row["reward"] for row in rows})
    scores = [name for name in events.Tags()["scalars"] if name.endswith("/em")]
    assert len(scores) == 1
    assert scores[0].startswith("eval/")
    assert [event.step for event in events.Scalars(scores[0])] == [0, 2, 3]
    assert len(events.Scalars("time/total")) == 3
    assert [event.step for event in events.Scalars("retrieval_batch")] == [1, 2, 3]

    identifier = json.loads((run / "wandb.json").read_text())["id"]
    parts = sorted((run / "wandb").glob(f"offline-run-*-{identifier}/*.wandb"))
    assert len(parts) == 2, "the resumed run goes on under its id"
    kinds = (b"reward", b"time/total", b"tokens_per_second", b"retrieval_p99")
    for name in (*kinds, scores[0].encode()):
        assert all(name in part.read_bytes() for part in parts), name


def test_wandb_without_a_key_says_what_to_do(
    playground: Playground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    options = playground.settings(train__steps=1, track__wandb="true")
    done = run_tspo("train", "tiny/grpo", "--out", tmp_path / "run", *options)
    assert done.code == 4, done.err
    last = done.err.strip().splitlines()[-1]
    assert last.startswith("error: track.wandb: W&B does not start (")
    assert "WANDB_MODE=offline" in last
