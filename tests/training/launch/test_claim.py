"""A run directory belongs to one run at a time, and to nobody before its first step."""

from __future__ import annotations

import contextlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Finished, Playground, run_tspo
from tspo_cli.errors import InvalidInputError, MissingResourceError, UsageError
from tspo_cli.record_digests import DIGESTS_NAME, note_digests
from tspo_cli.reporting.sources.run_view import open_runs
from tspo_cli.runs import append_jsonl, read_json, read_jsonl
from tspo_cli.training.launch.claim import claimed_run, has_trained
from tspo_cli.training.launch.replaced_run import forget_replaced

NEW = '{"new": true, "model": {}}'


def leave_a_run(path: Path, *, trained: bool) -> None:
    path.mkdir()
    (path / "config.resolved.json").write_text("{}")
    (path / "metrics.jsonl").write_text('{"step": 1}\n' if trained else "")
    (path / "eval").mkdir()


def test_a_trained_run_is_refused_resumed_or_replaced(tmp_path: Path) -> None:
    run = tmp_path / "run"
    leave_a_run(run, trained=True)
    with (
        pytest.raises(InvalidInputError, match="without a checkpoint") as said,
        claimed_run(run, resume=False, overwrite=False),
    ):
        pass
    assert "--overwrite" in str(said.value)
    assert "--resume" not in str(said.value)
    (run / "checkpoints" / "step_000001").mkdir(parents=True)
    with (
        pytest.raises(InvalidInputError, match="--resume to continue it or --overwrite"),
        claimed_run(run, resume=False, overwrite=False),
    ):
        pass
    shutil.rmtree(run / "checkpoints")
    with claimed_run(run, resume=True, overwrite=False):
        assert has_trained(run)
    with claimed_run(run, resume=False, overwrite=True):
        assert shown(run) == []


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_launch_writes_nothing_where_no_run_stands(tmp_path: Path, kind: str) -> None:
    mine = tmp_path / "run" / "mine.txt" if kind == "folder" else tmp_path / "run"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    done = run_tspo("launch", "tiny/grpo", "--out", "run", cwd=tmp_path)
    assert done.code == 3, done.err
    assert done.err.startswith("error: run: exists and is n")
    assert [*tmp_path.rglob("*")] == [*{tmp_path / "run": 0, mine: 0}]


@pytest.mark.parametrize("file", ["best/best.json", "changes.jsonl", "questions.jsonl"])
def test_a_run_that_lacks_a_record_is_not_resumed(tmp_path: Path, file: str) -> None:
    """Whole folders may be deleted: best/ is made again."""
    run = tmp_path / "run"
    leave_a_run(run, trained=True)
    (run / file).parent.mkdir(exist_ok=True)
    (run / file).write_text("{}")
    note_digests(run / file)
    (run / file).unlink()
    with (
        pytest.raises(InvalidInputError, match=f"{run / file}: is missing, .* or delete "),
        claimed_run(run, resume=True, overwrite=False),
    ):
        pass
    (run / file).with_name(DIGESTS_NAME).unlink()
    with claimed_run(run, resume=True, overwrite=False):
        pass


def shown(run: Path) -> list[str]:
    """The names that a user sees."""
    return sorted(path.name for path in run.iterdir() if not path.name.startswith("."))


def contents(run: Path) -> dict[str, str]:
    return {
        str(path.relative_to(run)): path.read_text()
        for path in run.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


class Killed(BaseException):
    """Stands for SIGKILL: no code of ours may depend on seeing it."""


@pytest.mark.parametrize("trained", [0, 3])
def test_the_old_run_stands_until_the_new_one_has_a_checkpoint(
    tmp_path: Path, trained: int, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    leave_a_run(run, trained=True)
    (run / "model").mkdir()
    (run / "model" / "model.safetensors").write_text("weights")
    before = contents(run)
    with (  # noqa: PT012
        pytest.raises(MissingResourceError),
        claimed_run(run, resume=False, overwrite=True),
    ):
        (run / "config.resolved.json").write_text(NEW)
        for step in range(1, trained + 1):
            append_jsonl(run / "metrics.jsonl", {"step": step})
        raise MissingResourceError("the model is not there")
    with (
        pytest.raises(InvalidInputError, match="already holds a run"),
        claimed_run(run, resume=False, overwrite=False),
    ):
        pass
    assert contents(run) == before
    assert f"{run}: what --overwrite was to replace is back" in capsys.readouterr().err

    with claimed_run(run, resume=False, overwrite=True):
        (run / "config.resolved.json").write_text(NEW)
        assert [view.path.name for view in open_runs([tmp_path])] == ["run"]
        (run / "checkpoints" / "step_000001").mkdir(parents=True)
        forget_replaced(run)
        assert contents(run) == {"config.resolved.json": NEW}
    with claimed_run(run, resume=True, overwrite=False):
        assert contents(run) == {"config.resolved.json": NEW}


@pytest.mark.parametrize("renames", range(7))
def test_a_kill_between_any_two_renames_loses_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    """The process dies after `renames` renames of moving aside, and the next one as early."""
    run = tmp_path / "run"
    leave_a_run(run, trained=True)
    for name in ("model/config.json", "rollouts/step_000001.jsonl.gz"):
        (run / name).parent.mkdir()
        (run / name).write_text(name)
    before = contents(run)
    rename = Path.rename
    left = renames

    def dying(path: Path, target: Path) -> Path:
        nonlocal left
        if left == 0:
            raise Killed
        left -= 1
        return rename(path, target)

    for _ in range(2):
        left = renames
        with monkeypatch.context() as patch:
            patch.setattr(Path, "rename", dying)
            with contextlib.suppress(Killed), claimed_run(run, resume=False, overwrite=True):
                raise Killed
    with claimed_run(run, resume=True, overwrite=False):
        assert contents(run) == before


def test_what_a_killed_write_left_is_deleted(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / ".config.toml.4711.tmp").write_text("kind")
    with claimed_run(run, resume=True, overwrite=False):
        assert contents(run) == {}
    leave_a_run(run / "trained", trained=True)
    trained = run / "trained"
    before = contents(trained)
    for name in (".metrics.jsonl.4711.tmp", "eval/.world.json.4711.tmp"):
        (trained / name).write_text("half")
    for name in (".model.tmp", "checkpoints/.step_000002.tmp", "vllm/.version_3.tmp"):
        (trained / name).mkdir(parents=True)
        (trained / name / "state.safetensors").write_text("half")
    with claimed_run(trained, resume=True, overwrite=False):
        assert contents(trained) == before


def test_a_run_without_a_step_is_replaced_without_a_flag(tmp_path: Path) -> None:
    run = tmp_path / "run"
    leave_a_run(run, trained=False)
    with claimed_run(run, resume=False, overwrite=False):
        assert shown(run) == []


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
    _, said = process.communicate(timeout=120)
    assert process.returncode != 0
    assert b"Ctrl-C: stopped " in said
    assert not has_trained(run)
    tspo(*command, *flags)
    assert read_json(run / "status.json")["state"] == "finished"
