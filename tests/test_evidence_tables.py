"""The evidence's tables say what its rows say."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.evidence import tables

NATIVE = Path(__file__).resolve().parent.parent / "experiments" / "evidence" / "native"


def row(arm: str, seed: int, step: int, em: float, **more: str) -> dict[str, str]:
    values = {
        "experiment": "hard", "config": f"hard.sweep.toml::{arm}/a0", "arm": arm, "start": "a0",
        "lr": "0.0004", "seed": str(seed), "step": str(step), "em": str(em), "searches": "1.0",
        "no_answer_share": "0.0", "n": "300", "train_tokens": "1000", "train_cpu_seconds": "2.0",
    }  # fmt: skip
    return values | more


def runs(areas: dict[str, list[float]]) -> list[dict[str, str]]:
    """Runs of two evaluations, whose area is the value that is given."""
    return [
        row(arm, seed, step, em)
        for arm, values in areas.items()
        for seed, value in enumerate(values)
        for step, em in ((0, 0.0), (10, 2 * value))
    ]


def test_tables_of_the_first_set_are_those_of_its_page() -> None:
    rows = tables.read_rows(NATIVE / "results.csv")
    page = (NATIVE / "README.md").read_text("utf-8")
    for name, step in (("hard", 30), ("two_hop", 50), ("easy", 30)):
        sweep = tables.sweep_of(rows, name, baseline="grpo", grid=False)
        assert f"<!-- table {name} -->\n{tables.arms_table(sweep, step)}<!-- end -->" in page
    assert tables.cost_table(rows, ("hard", "easy", "two_hop")) in page


def test_the_planned_tests_count_pairs_alone() -> None:
    rows = runs({"grpo": [0.1, 0.2, 0.3, 0.4], "tspo": [0.2, 0.3, 0.5]})
    lines = tables.tests_table(rows, {"hard": 40, "two_hop": 20}).splitlines()
    assert lines[2].startswith("| hard: tspo - grpo | 3 | 40 | +13.3 \\[")
    assert lines[2].split(" | ")[4] == "3"
    assert lines[3] == "| two_hop: tspo - grpo | 0 | 20 | | | | |"


def test_methods_are_compared_with_grpo_by_pairs() -> None:
    ems = {"grpo": [0.1, 0.2, 0.3], "carl": [0.2, 0.35, 0.35, 0.9], "mig": [0.1, 0.3]}
    rows = runs(ems | {"tspo": [0.2, 0.45]})
    rows = [item | {"train_tokens": "1500"} if item["arm"] == "carl" else item for item in rows]
    lines = tables.methods_table(rows, "hard", ("carl", "mig", "arpo")).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| carl", "| mig"]
    assert lines[2].split(" | ")[1:3] == ["3", "+10.0 \\[-2.4, +22.4\\]"]
    assert lines[2].endswith(" | 1.50x | 1.00x |")
    assert lines[3].split(" | ")[1:] == [
        "2",
        "+5.0 \\[-58.5, +68.5\\]",
        "0.500",
        "0.500",
        "-12.5 \\[-44.3, +19.3\\]",
        "1.00x",
        "1.00x |",
    ]


@pytest.mark.parametrize(
    ("p", "corrected"),
    [
        ({"a": 0.01, "b": 0.04}, {"a": 0.02, "b": 0.04}),
        ({"a": 0.04, "b": 0.03}, {"b": 0.06, "a": 0.06}),
        ({"a": 0.5, "b": 0.9, "c": 0.01}, {"c": 0.03, "a": 1.0, "b": 1.0}),
        ({}, {}),
    ],
)
def test_holm(p: dict[str, float], corrected: dict[str, float]) -> None:
    assert tables.holm(p) == pytest.approx(corrected)


def test_the_replication_has_the_runs_of_both_sets() -> None:
    first = runs({"grpo": [0.1, 0.2], "tspo": [0.4]})
    second = runs({"grpo": [0.15, 0.1, 0.9], "tspo": [0.4], "dapo": [0.2]})
    lines = tables.replication_table(first, second, "hard", 10).splitlines()
    assert lines[2:] == [
        "| grpo | 2 | 15.0 | 12.5 | 7.5 (at most 10.0) | 30.0 | 25.0 | 15.0 (at most 20.0) |",
        "| tspo | 1 | 40.0 | 40.0 | 0.0 (at most 0.0) | 80.0 | 80.0 | 0.0 (at most 0.0) |",
    ]


def test_findings_name_the_interval_and_what_is_missing() -> None:
    first = tables.read_rows(NATIVE / "results.csv")
    second = runs({"grpo": [0.1, 0.2, 0.3], "tspo": [0.5, 0.6, 0.72]})
    text = tables.findings(first, second, {"hard": 40, "two_hop": 20})
    assert max(map(len, text.splitlines())) <= 100
    lines = text.replace("\n   ", " ").splitlines()
    assert lines[0].startswith(
        "1. **Hard start (first planned test): a gain.** TSPO minus GRPO: +40.7"
    )
    assert "over 3 of 40 planned pairs. In the first set +5.0 \\[-3.4, +13.5\\] over 10" in lines[0]
    assert "no pair of 20 planned is finished. In the first set +28.1" in lines[1]
    assert "no difference is established" in lines[2]


def test_progress_counts_runs_and_not_evaluations() -> None:
    rows = runs({"grpo": [0.1, 0.2]})
    table = tables.progress_table(rows, {("hard", "grpo"): 40, ("hard", "tspo"): 40})
    assert table.splitlines()[2:] == ["| hard | grpo | 2 | 40 |", "| hard | tspo | 0 | 40 |"]
