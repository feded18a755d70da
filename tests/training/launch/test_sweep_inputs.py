"""Cells of a sweep that name the same files began with the same contents of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tspo_cli.config.load_config import load_config, write_resolved
from tspo_cli.config.schema import Config
from tspo_cli.disk import one_writer
from tspo_cli.errors import InvalidInputError
from tspo_cli.runs import append_jsonl, write_json
from tspo_cli.training.launch.sweep_inputs import require_inputs_of_sweep, require_same_inputs

FIRST, SECOND = "a/seed0", "a/seed1"


def config(seed: int, *settings: str) -> Config:
    return load_config([], [f"seed={seed}", "model.path=m", 'data.train=["q.jsonl"]', *settings])


def cell(run: Path, made: Config, inputs: dict[str, str], *, began: bool = True) -> None:
    run.mkdir(parents=True)
    write_resolved(made, run)
    write_json(run / "inputs.json", {"experiment": run.name, **inputs})
    if began:
        append_jsonl(run / "metrics.jsonl", {"step": 1})


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """The record of a sweep with two cells."""
    cells = [
        {"name": name, "arm": "a", "place": {}, "seed": seed}
        for seed, name in enumerate((FIRST, SECOND))
    ]
    record = {"file": "s.toml", "baseline": None, "axes": [], "grid": [], "cells": cells}
    write_json(tmp_path / "sweep.json", record)
    return tmp_path


@pytest.mark.parametrize(
    "kind",
    [
        "questions",
        "index",
        "search",
        "reranker",
        "held_out",
        "model",
        "algorithm",
        "outcome",
        "rubric",
    ],
)
def test_another_content_is_refused(sweep: Path, kind: str) -> None:
    cell(sweep / FIRST, config(0), {"model": "m", kind: "abc"})
    cell(sweep / SECOND, config(1), {"model": "m", kind: "def"}, began=False)
    with pytest.raises(InvalidInputError, match=r"a/seed1: began with other .* than .*a/seed0"):
        require_inputs_of_sweep(sweep / SECOND, config(1))
    both = {sweep / FIRST: config(0), sweep / SECOND: config(1)}
    require_same_inputs(both)  # nothing was trained yet
    append_jsonl(sweep / SECOND / "metrics.jsonl", {"step": 1})
    with pytest.raises(InvalidInputError, match="def, there abc; put back"):
        require_same_inputs(both)


def test_a_cell_that_begins_at_the_same_time_counts(sweep: Path) -> None:
    cell(sweep / FIRST, config(0), {"algorithm": "abc"}, began=False)
    cell(sweep / SECOND, config(1), {"algorithm": "def"}, began=False)
    require_inputs_of_sweep(sweep / SECOND, config(1))
    with (
        one_writer(sweep / FIRST, "training into it"),
        pytest.raises(InvalidInputError, match="code"),
    ):
        require_inputs_of_sweep(sweep / SECOND, config(1))


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        ("questions", 'data.train=["other.jsonl"]'),
        ("model", "model.path=other"),
        ("index", "retriever.index=other"),
        ("algorithm", "credit.algorithm=rloo"),
    ],
)
def test_other_files_are_what_an_arm_or_axis_is_for(sweep: Path, kind: str, setting: str) -> None:
    cell(sweep / FIRST, config(0), {kind: "abc"})
    cell(sweep / SECOND, config(1, setting), {kind: "def"})
    require_inputs_of_sweep(sweep / SECOND, config(1, setting))
    require_same_inputs({sweep / FIRST: config(0), sweep / SECOND: config(1, setting)})


def test_a_run_that_is_no_cell_is_not_compared(sweep: Path) -> None:
    cell(sweep / FIRST, config(0), {"model": "abc"})
    cell(sweep / "mine", config(1), {"model": "def"})
    require_inputs_of_sweep(sweep / "mine", config(1))
