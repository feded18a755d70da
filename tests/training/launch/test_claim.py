"""A run directory belongs to one run at a time, and to nobody before its first step."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Finished, Playground, run_tspo
from tspo_cli.errors import InvalidInputError, UsageError
from tspo_cli.runs import read_json, read_jsonl
from tspo_cli.training.launch.claim import claimed_run, has_trained


def leave_a_run(path: Path, *, trained: bool) -> None:
    path.mkdir()
    (path / "config.resolved.json").write_text("{}")
    (path / "metrics.jsonl").write_text('{"step": 1}\n' if trained else "")
    (path / "eval").mkdir()


def test_a_trained_run_is_refused_resumed_or_replaced(tmp_path: Path) -> None:
    run = tmp_path / "run"
    leave_a_run(run, trained=True)
    with (
        pytest.raises(InvalidInputError, match="--resume to continue it or --overwrite"),
        claimed_run(run, resume=False, overwrite=False),
    ):
        pass
    with claimed_run(run, resume=True, overwrite=False):
        assert has_trained(run)
    with claimed_run(run, resume=False, overwrite=True):
        assert [path.name for path in run.iterdir()] == [".lock"]


def test_a_run_without_a_step_is_replaced_without_a_flag(tmp_path: Path) -> None:
    run = tmp_path / "run"
    leave_a_run(run, trained=False)
    with claimed_run(run, resume=False, overwrite=False):
        assert [path.name for path in run.iterdir()] == [".lock"]


def test_two_runs_never_share_a_directory(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for resume, overwrite in ((False, False), (True, False), (False, True)):
        with (
            claimed_run(run, resume=False, overwrite=False),
            pytest.raises(InvalidInputError, match="another process is training into it"),
            claimed_run(run, resume=resume, overwrite=overwrite),
        ):
            pass
    with claimed_run(run, resume=False, overwrite=False):
        pass


def test_what_is_no_run_directory_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("chapter one")
    for path in (tmp_path, tmp_path / "thesis.tex"):
        with (
            pytest.raises(InvalidInputError, match="choose another --out"),
            claimed_run(path, resume=False, overwrite=True),
        ):
            pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with (
        pytest.raises(UsageError),
        claimed_run(tmp_path / "new", resume=True, overwrite=True),
    ):
        pass


@pytest.mark.slow
def test_a_run_that_fails_before_its_first_step_starts_again_without_a_flag(
    playground: Playground, tmp_path: Path, tspo: Callable[..., Finished]
) -> None:
    run = tmp_path / "run"
    quick = {"train__steps": 1, "eval__data": "[]", "eval__every": 0}
    for missing in ({"model__path": tmp_path / "none"}, {"retriever__index": tmp_path / "none"}):
        settings = playground.settings(**{**quick, **missing})
        assert run_tspo("train", "tiny/grpo", "--out", run, *settings).code == 4
    broken = tmp_path / "deepspeed.json"
    broken.write_text('{"zero_optimization": {"stage": "many"}}')
    settings = playground.settings(**quick, deepspeed__config=broken)
    assert run_tspo("train", "tiny/grpo", "--out", run, *settings).code != 0
    tspo("train", "tiny/grpo", "--out", run, *playground.settings(**quick))
    assert len(read_jsonl(run / "metrics.jsonl")) == 1
    done = run_tspo("train", "tiny/grpo", "--out", run, *playground.settings(**quick))
    assert done.code == 3
    assert "already holds a run" in done.err


@pytest.mark.slow
@pytest.mark.parametrize("flags", [[], ["--resume"]])
def test_ctrl_c_before_the_first_step(
    playground: Playground, tmp_path: Path, tspo: Callable[..., Finished], flags: list[str]
) -> None:
    run = tmp_path / "run"
    command = ["train", "tiny/grpo", "--out", str(run)]
    command += playground.settings(train__steps=1, eval__data="[]", eval__every=0)
    process = subprocess.Popen(
        [sys.executable, "-m", "tspo_cli", *command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    while not (run / "config.resolved.json").is_file():
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert not has_trained(run)
    tspo(*command, *flags)
    assert read_json(run / "status.json")["state"] == "finished"
