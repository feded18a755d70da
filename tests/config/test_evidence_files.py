"""The committed experiment files of the evidence are what its sweep files come to."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from tspo_cli.config.load_config import load_config
from tspo_cli.config.sweep_file import family_file, read_sweep

EVIDENCE = Path(__file__).resolve().parents[2] / "experiments" / "evidence"
SWEEPS = [
    path for path in sorted(EVIDENCE.glob("*.sweep.toml")) if not path.name.startswith("starts")
]


@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: path.name)
def test_a_committed_file_with_its_seed_is_the_cell(path: Path) -> None:
    plan = read_sweep(path)
    folder = EVIDENCE / "configs" / path.name.removesuffix(".sweep.toml")
    for cell in plan.cells:
        assert (
            load_config([family_file(folder, cell.family)], [f"seed={cell.seed}"]) == cell.config
        ), cell.name


def test_every_result_names_a_file_that_is_there() -> None:
    with open(EVIDENCE / "results.csv", encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert rows
    assert {"experiment", "config", "algorithm", "seed", "step", "em"} <= set(rows[0])
    for name in {row["config"] for row in rows}:
        config = load_config([EVIDENCE.parents[1] / name])
        steps = {int(row["step"]) for row in rows if row["config"] == name}
        assert max(steps) == config.train.steps, name
        assert {row["algorithm"] for row in rows if row["config"] == name} == {
            config.credit.algorithm
        }
