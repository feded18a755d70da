"""A run and an evaluation of version 0.1.0 are reported, inspected and resumed.

`fixtures/run_0_1_0/rl` was killed after step 3 of 4. Its options of gigpo lie flat in [credit], as
version 0.1.0 had them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Finished, run_tspo

FIXTURE = Path(__file__).with_name("fixtures") / "run_0_1_0"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory, tspo: Callable[..., Finished]) -> Path:
    """A copy of the run, with the world and the index that it was trained on beside it."""
    folder = tmp_path_factory.mktemp("old")
    shutil.copytree(FIXTURE, folder, dirs_exist_ok=True)
    tspo("data", "make-world", "--out", "world", "--entities", 40, "--test-entities", 30,
         "--train-questions", 24, "--test-questions", 8, "--facts-per-passage", 1,
         "--comparison-share", 0, cwd=folder)  # fmt: skip
    tspo("index", "build", "world/corpus.jsonl", "--out", "index", cwd=folder)
    return folder


def test_an_old_run_is_reported(old: Path, tspo: Callable[..., Finished]) -> None:
    rows = json.loads(tspo("report", "rl", "evals", "--format", "json", cwd=old).out)["rows"]
    assert {row["run"] for row in rows} >= {"rl"}
    assert "gigpo" in {row["algorithm"] for row in rows}
    page = old / "page.html"
    tspo("report", "rl", "--html", page, cwd=old)
    assert page.stat().st_size > 10_000


def test_an_old_run_is_listed_shown_inspected_and_explained(
    old: Path, tspo: Callable[..., Finished]
) -> None:
    runs = json.loads(tspo("runs", "ls", ".", "--json", cwd=old).out)
    assert "rl" in json.dumps(runs)
    tspo("runs", "show", "rl", cwd=old)
    groups = json.loads(tspo("inspect", "rl", "--json", "--limit", 0, cwd=old).out)["groups"]
    assert groups
    tspo("inspect", "rl", "--eval", cwd=old)
    tspo("inspect", "evals", cwd=old)
    tspo("credit", "rl", "--json", cwd=old)
    tspo("plan", "rl/config.toml", "--json", cwd=old)
    tspo("config", "validate", "rl/config.toml", cwd=old)


@pytest.mark.slow
def test_an_old_run_is_resumed_from_its_checkpoint(
    old: Path, tspo: Callable[..., Finished], tmp_path: Path
) -> None:
    folder = tmp_path / "resumed"
    shutil.copytree(old, folder)
    before = (folder / "rl" / "metrics.jsonl").read_text("utf-8").splitlines()
    tspo("train", "rl/config.toml", "--out", "rl", "--resume", cwd=folder)
    after = (folder / "rl" / "metrics.jsonl").read_text("utf-8").splitlines()
    assert after[:2] == before[:2]
    steps = [json.loads(line) for line in after]
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    assert steps[3].keys() >= json.loads(before[2]).keys()
    assert json.loads((folder / "rl" / "status.json").read_text("utf-8"))["state"] == "finished"
    assert (folder / "rl" / "model" / "model.safetensors").is_file()


def test_an_old_run_is_not_resumed_with_other_settings(old: Path) -> None:
    done = run_tspo(
        "train", "rl/config.toml", "--out", "rl", "--resume", "--set", "train.updates_per_step=2",
        cwd=old,
    )  # fmt: skip
    assert done.code == 3
    assert "updates_per_step" in done.err
