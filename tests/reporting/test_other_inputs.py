"""Runs of one experiment that began with other contents of its files have no common mean."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.reporting.tree import ITEM, make_evaluation, make_run
from tspo_cli import runs
from tspo_cli.commands.app import app
from tspo_cli.config.schema import Config
from tspo_cli.reporting.run_report import RunReport
from tspo_cli.reporting.sources.arms import group_arms
from tspo_cli.reporting.sources.run_view import open_runs

BEGAN = {"questions": "aaaa", "index": "cccc", "model": "dddd", "experiment": "1"}


def add(root: Path, name: str, seed: int, *, algorithm: str = "grpo", **inputs: str) -> None:
    config = {"seed": seed, "credit": {"algorithm": algorithm}, "train": {"steps": 4}}
    run = root / name
    make_run(run, Config.model_validate(config), 4, {0: 0.1, 4: 0.4})
    if inputs:
        runs.write_json(run / runs.INPUTS_NAME, inputs)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two seeds of each of two arms, in the folders of two sweeps, say."""
    for seed in (0, 1):
        for algorithm in ("grpo", "tspo"):
            inputs = BEGAN | {"experiment": f"{algorithm}{seed}"}
            add(tmp_path, f"s{seed}/{algorithm}", seed, algorithm=algorithm, **inputs)
    return tmp_path


def labels(root: Path, *ignore: str) -> list[tuple[str, int]]:
    arms = group_arms(open_runs([root]), ignore=ignore)
    return [(arm.label, len(arm.views)) for arm in arms]


@pytest.mark.parametrize("kind", ["questions", "index", "model"])
def test_other_inputs_are_another_arm(root: Path, kind: str) -> None:
    assert labels(root) == [("grpo", 2), ("tspo", 2)]
    add(root, "s2/grpo", 2, **BEGAN | {kind: "bbbb"})
    before = BEGAN[kind]
    assert labels(root) == [(f"grpo ({kind}={before})", 2), ("tspo", 2), (f"grpo ({kind}=bbbb)", 1)]
    (said,) = [line for line in RunReport(open_runs([root])).messages() if "other" in line]
    assert said.startswith("s2/grpo: began with other ")
    assert f"than s0/grpo, though both name the same: bbbb, there {before};" in said


def test_arms_with_other_inputs_than_each_other_are_named(root: Path) -> None:
    """Each arm has one mean, but a difference between them may be that of their questions."""
    for seed in (0, 1):
        path = root / f"s{seed}" / "tspo" / runs.INPUTS_NAME
        runs.write_json(path, runs.read_json(path) | {"questions": "bbbb"})
    assert labels(root) == [("grpo", 2), ("tspo", 2)]
    told = CliRunner().invoke(app, ["report", str(root), "--table", "main"])
    assert told.exit_code == 0
    assert told.stderr.count("began with other training questions (data.train) than s0/grpo") == 2


def test_inputs_that_are_not_known_are_no_other_ones(root: Path) -> None:
    """Runs of earlier versions recorded none, and a server may tell no digest of its index."""
    add(root, "s2/grpo", 2)
    add(root, "s3/grpo", 3, model="dddd")
    assert labels(root) == [("grpo", 4), ("tspo", 2)]
    add(root, "s4/grpo", 4, model="eeee")
    assert ("grpo (model=unknown)", 1) in labels(root)


def test_what_is_ignored_may_be_another_input(root: Path) -> None:
    add(root, "s2/grpo", 2, **BEGAN | {"questions": "bbbb"})
    assert len(labels(root)) == 3
    assert len(labels(root, "retriever.index")) == 3
    assert labels(root, "data.train") == [("grpo", 3), ("tspo", 2)]
    assert labels(root, "data") == [("grpo", 3), ("tspo", 2)]


def test_evaluations_of_models_that_began_with_other_inputs(root: Path) -> None:
    add(root, "s2/grpo", 2, **BEGAN | {"questions": "bbbb"})
    for seed in range(3):
        model = str(root / f"s{seed}/grpo/model")
        make_evaluation(root / f"evals/{seed}", "rag", [ITEM], model=model)
    found = [(label, count) for label, count in labels(root / "evals") if "rag" in label]
    assert sorted(count for _, count in found) == [1, 2]
