"""A run or evaluation of somebody else may have links that lead out of it, pipes and files in the
place of directories. To go on with it, or to replace it, changes nothing outside.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from tests.conftest import Finished, Playground, run_tspo
from tspo_cli import runs
from tspo_cli.disk import has_writer, one_writer, replace_directory
from tspo_cli.errors import InvalidInputError
from tspo_cli.evaluation.resuming.results_folder import results_folder
from tspo_cli.plain_files import append_plain
from tspo_cli.record_digests import delete_folder, note_digests
from tspo_cli.training.core.checkpoints.checkpoint import prune, set_aside
from tspo_cli.training.launch.claim import FILLED_FOLDERS, REPLACED_FOLDERS, claimed_run
from tspo_cli.training.remedies.best_checkpoint import forget_later_checkpoints


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that nothing may change."""
    folder = tmp_path / "outside"
    (folder / "thesis").mkdir(parents=True)
    for name in ("text", "digests.jsonl", "config.resolved.json", "eval.json", "thesis/text"):
        (folder / name).write_text("mine")
    return folder


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in files}


APPENDING: dict[str, Callable[[Path], object]] = {
    "changes.jsonl": lambda run: runs.append_jsonl(run / "changes.jsonl", {"step": 1}),
    "digests.jsonl": lambda run: note_digests(runs_file(run)),
    "logs/attempt_1.log": lambda run: runs.log_line(run, 1, "hello"),
    ".lock": lambda run: one_writer(run, "training into it").__enter__(),
}
"""What adds to a file of a run, by the file."""


def runs_file(run: Path) -> Path:
    (run / "a.json").write_text("{}")
    return run / "a.json"


@pytest.mark.parametrize("name", APPENDING)
@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
def test_nothing_is_added_through_a_link_or_waits_for_a_pipe(
    tmp_path: Path, outside: Path, name: str, kind: str
) -> None:
    run = tmp_path / "run"
    place = run / name
    place.parent.mkdir(parents=True)
    if kind == "link":
        place.symlink_to(outside / "text")
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.mkdir()
    before = contents(outside)
    with pytest.raises(InvalidInputError) as refused:
        APPENDING[name](run)
    assert str(refused.value).startswith(f"{place}: ")
    assert "expected a file, got a " in str(refused.value) or name == "digests.jsonl"
    assert str(refused.value).endswith("; remove it") or name != ".lock"
    assert contents(outside) == before


def test_what_is_appended_to_is_made(tmp_path: Path) -> None:
    for text in (b"one\n", b"two\n"):
        with append_plain(tmp_path / "file") as handle:
            handle.write(text)
    assert (tmp_path / "file").read_bytes() == b"one\ntwo\n"
    with one_writer(tmp_path, "writing"):
        assert has_writer(tmp_path)
    assert has_writer(tmp_path) is False


def test_a_new_directory_takes_the_place_of_a_link(tmp_path: Path, outside: Path) -> None:
    before = contents(outside)
    for target in (outside, tmp_path / "nowhere"):
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / "weights").write_text("new")
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        (tmp_path / "model").symlink_to(target)
        replace_directory(tmp_path / "new", tmp_path / "model")
        assert contents(tmp_path / "model") == {"weights": "new"}
        assert not (tmp_path / "model").is_symlink()
    assert contents(outside) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "outside"]


@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_no_directory_takes_the_place_of_something_else(tmp_path: Path, kind: str) -> None:
    (tmp_path / "new").mkdir()
    os.mkfifo(tmp_path / "model") if kind == "pipe" else (tmp_path / "model").write_text("mine")
    with pytest.raises(InvalidInputError, match="model: expected a directory"):
        replace_directory(tmp_path / "new", tmp_path / "model")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "new"]


def test_of_a_link_only_the_link_is_deleted(tmp_path: Path, outside: Path) -> None:
    before, run = contents(outside), tmp_path / "run"
    kept = runs.checkpoint_folder(run, 2)
    kept.mkdir(parents=True)
    older, damaged = runs.checkpoint_folder(run, 1), kept.with_name("damaged_step_000002")
    best = run / runs.BEST_CHECKPOINTS_NAME / "step_000003"
    best.parent.mkdir()
    for link in (older, damaged, best, run / "best"):
        link.symlink_to(outside)
    prune(run, 1)
    set_aside(kept)
    forget_later_checkpoints(run, 2)
    delete_folder(run / "best")
    assert not any(os.path.lexists(link) for link in (older, best, run / "best"))
    assert contents(outside) == before


@pytest.mark.parametrize("name", [".replaced", ".deleted", ".model.tmp", "model", "best"])
@pytest.mark.parametrize("resume", [True, False])
def test_a_claim_moves_and_deletes_nothing_outside(
    tmp_path: Path, outside: Path, name: str, resume: bool
) -> None:
    before, run = contents(outside), tmp_path / "run"
    run.mkdir()
    runs.write_json(run / "config.resolved.json", {"model": {}})
    (run / "checkpoints" / "step_000001").mkdir(parents=True)
    (run / name).symlink_to(outside)
    refused = pytest.raises(InvalidInputError, match=r"\.replaced: expected a directory")
    with (
        refused if name == ".replaced" else nullcontext(),
        claimed_run(run, resume=resume, overwrite=not resume),
    ):
        pass
    assert contents(outside) == before
    assert contents(run)


@pytest.mark.parametrize("name", [*FILLED_FOLDERS, *REPLACED_FOLDERS])
def test_a_run_that_goes_on_looks_for_its_directories_first(tmp_path: Path, name: str) -> None:
    runs.write_json(tmp_path / "config.resolved.json", {"model": {}})
    (tmp_path / name).write_text("mine")
    with (
        pytest.raises(InvalidInputError, match=rf"{name}: expected a directory"),
        claimed_run(tmp_path, resume=True, overwrite=False),
    ):
        pass


@pytest.mark.parametrize("name", [*FILLED_FOLDERS, "eval/step_000002"])
def test_nothing_is_written_behind_a_link(tmp_path: Path, outside: Path, name: str) -> None:
    run = tmp_path / "run"
    runs.write_json(run / "config.resolved.json", {"model": {}})
    (run / name).parent.mkdir(exist_ok=True)
    (run / name).symlink_to(outside)
    with (
        pytest.raises(InvalidInputError, match=rf"{name}: expected a directory, got a link"),
        claimed_run(run, resume=True, overwrite=False),
    ):
        pass


@pytest.mark.parametrize("name", ["logs", "configs", "tspo", "tspo/seed0"])
def test_a_sweep_writes_nothing_behind_a_link(
    tspo: Callable[..., Finished], tmp_path: Path, outside: Path, name: str
) -> None:
    file, before = tmp_path / "small.sweep.toml", contents(outside)
    base = Path(__file__).resolve().parents[3] / "experiments" / "tiny" / "grpo.toml"
    file.write_text(f'base = "{base}"\nseeds = [0]\n[arms.tspo]\ncredit.algorithm = "tspo"\n')
    sweep = tmp_path / "sweep"
    (sweep / name).parent.mkdir(parents=True)
    (sweep / name).symlink_to(outside)
    cell = {"name": "tspo/seed0", "arm": "tspo", "place": {}, "seed": 0}
    record = {"file": str(file), "baseline": "tspo", "axes": [], "grid": [], "cells": [cell]}
    runs.write_json(sweep / "sweep.json", record)
    done = run_tspo("sweep", file, "--out", sweep)
    assert done.code == 3, done.err
    assert f"{sweep / name}: expected a directory, got a link" in done.err
    assert contents(outside) == before


def test_a_new_evaluation_that_is_a_link_is_refused(tmp_path: Path, outside: Path) -> None:
    before = contents(outside)
    folder = tmp_path / "evals"
    folder.mkdir()
    (folder / ".new").symlink_to(outside)
    for overwrite in (True, False):
        with (
            pytest.raises(InvalidInputError, match=r"\.new: expected a directory"),
            results_folder(folder, resume=not overwrite, overwrite=overwrite),
        ):
            pass
    assert contents(outside) == before
    (folder / ".new").unlink()
    runs.write_json(folder / ".new" / "eval.json", {"results": 5})
    with (
        pytest.raises(InvalidInputError, match=r"eval\.json: not a record of tspo: results"),
        results_folder(folder, resume=True, overwrite=False),
    ):
        pass


@pytest.mark.slow
def test_a_run_with_links_goes_on_beside_them(
    playground: Playground, tspo: Callable[..., Finished], tmp_path: Path, outside: Path
) -> None:
    words = ["train", "tiny/grpo", *playground.settings(train__steps=2), "--out", tmp_path / "run"]
    tspo(*words, "--set", "train.steps=1")
    before, run = contents(outside), tmp_path / "run"
    for name in ("model", "best"):
        shutil.rmtree(run / name)
        (run / name).symlink_to(outside)
    done = run_tspo(*words, "--resume")
    assert done.code == 0, done.err
    assert (run / "model" / "model.safetensors").is_file()
    assert contents(outside) == before
