"""Processes of trainings and evaluations, and the CPU cores that they share."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest
import torch

from tspo_cli.config.load_config import load_config
from tspo_cli.cpu_threads import refuse_too_many
from tspo_cli.errors import InvalidInputError
from tspo_cli.evaluation.answering.worker_messages import Job
from tspo_cli.evaluation.answering.workers import open_workers
from tspo_cli.training.launch.processes import launch
from tspo_cli.training.start.dry_run import dry_run


def never(*_: object) -> NoReturn:
    raise AssertionError("nothing may begin")


@pytest.mark.parametrize("count", [99_999, 10**9])
def test_more_processes_than_cores_bear_are_refused_before_they_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr("subprocess.Popen", never)
    config = load_config(["tiny/grpo"], [f"train.processes={count}"])
    words = rf"train\.processes: {count} processes share .* and each holds a model; set train\.proc"
    with pytest.raises(InvalidInputError, match=words):
        launch(config, tmp_path / "run", never, "no.module", resume=False, overwrite=False)
    with pytest.raises(InvalidInputError, match=words):
        dry_run(config, tmp_path / "run", {})
    with (
        pytest.raises(InvalidInputError, match=rf"eval\.processes: {count} processes share .*"),
        open_workers(Job(config, "direct"), count),
    ):
        pass
    assert not (tmp_path / "run").exists()


def test_what_the_cores_bear_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda process: {0, 1}, raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    refuse_too_many("train.processes", 16, "a model")
    with pytest.raises(InvalidInputError, match=r"17 processes share 2 CPU cores.* at most 16"):
        refuse_too_many("train.processes", 17, "a model")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    refuse_too_many("train.processes", 17, "a model")  # LOCAL_RANK says which has no GPU


@pytest.mark.parametrize(
    ("own", "seen"),
    [
        ({}, "1000 None"),
        ({"GOMP_SPINCOUNT": "5"}, "5 None"),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, "None ACTIVE"),
    ],
)
def test_a_waiting_thread_gives_its_core_away_unless_a_user_says_otherwise(
    tmp_path: Path, own: dict[str, str], seen: str
) -> None:
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {name: os.environ[name] for name in os.environ.keys() - {*names}}
    rule = tmp_path / "rule.py"
    rule.write_text(
        f"import os, sys\nprint(*(os.environ.get(name) for name in {names}), file=sys.stderr)\n"
    )
    algorithm = ["--set", f"credit.algorithm={rule}:advantages"]
    done = subprocess.run(
        [sys.executable, "-m", "tspo_cli", "config", "show", "tiny/grpo", *algorithm],
        env=environment | own,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert seen in done.stderr, done.stderr
