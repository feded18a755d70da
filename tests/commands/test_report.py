"""tspo report from the command line."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from tests.commands.report_cli import tspo, tspo_json
from tests.reporting.tree import make_evaluation, make_run
from tspo_cli import runs
from tspo_cli.config.schema import Config
from tspo_cli.errors import MissingResourceError, UsageError


def test_report_json_is_rows(demo: Path) -> None:
    rows = tspo_json("report", demo)["rows"]
    assert rows == json.loads(tspo("report", demo, "--format", "json").stdout)["rows"]
    assert {"run", "algorithm", "seed", "step", "dataset", "n", "em", "f1"} <= set(rows[0])
    assert [row["em"] for row in rows if row["run"] == "tspo"] == [0.1, 0.4]


@pytest.mark.parametrize("form", ["table", "md", "csv", "latex"])
def test_report_forms(demo: Path, form: str) -> None:
    done = tspo("report", demo, "--format", form, "--baseline", "grpo", "--all-steps")
    assert done.exit_code == 0
    assert "tspo" in done.stdout
    assert "tspo-b: running at step 2 of 4" in done.stderr
    assert "tspo-b: running" not in done.stdout


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("main", "latex"),
        ("ablation", "md"),
        ("curves", "csv"),
        ("classes", "table"),
        ("cost", "csv"),
        ("all", "md"),
    ],
)
def test_report_tables(demo: Path, name: str, form: str) -> None:
    done = tspo("report", demo, "--table", name, "--format", form, "--baseline", "grpo")
    assert done.exit_code == 0, done.exception
    assert "tspo" in done.stdout


def test_report_json_keeps_rows_and_adds_the_tables_asked_for(demo: Path) -> None:
    found = tspo_json("report", demo, "--table", "all", "--baseline", "grpo")
    assert set(found) == {
        "rows",
        "evaluations",
        "main",
        "tests",
        "ablation",
        "curves",
        "classes",
        "cost",
        "commands",
    }
    assert found["rows"] == tspo_json("report", demo, "--baseline", "grpo")["rows"]
    assert all(found[name] for name in found if name != "evaluations")


def test_report_json_has_the_same_keys_in_every_record(evals: Path) -> None:
    found = tspo_json(
        "report", evals, "--table", "all", "--baseline", "rag", "--published", "2503.09516v5 7B"
    )
    for name in ("rows", "main", "tests", "cost", "commands"):
        assert len({frozenset(record) for record in found[name]}) == 1, name
    estimate = {"mean", "se", "low", "high", "questions", "seeds"}
    assert all(set(one) == estimate for record in found["main"] for one in record["sets"].values())
    assert set(found["main"][0]) == {
        "method",
        "metric",
        "published",
        "runs",
        "commands",
        "sets",
        "macro",
        "by_question",
        "against",
        "gain",
        "certainty",
        "protocol",
        "source",
        "note",
    }
    assert set(found["tests"][0]) == {
        "method",
        "baseline",
        "metric",
        "dataset",
        "seeds",
        "baseline_score",
        "difference",
        "low",
        "high",
        "relative_gain",
        "p",
        "p_holm",
        "p_mcnemar",
        "p_mcnemar_holm",
        "questions",
        "questions_needed",
        "detectable",
    }
    assert [one["dataset"] for one in found["tests"]] == ["nq", "popqa", "average"]
    assert found["commands"][0]["command"] == "tspo eval model --data nq --method ircot"


def test_report_as_csv_reads_back(evals: Path) -> None:
    for table in ("rows", "main", "tests", "cost", "commands"):
        done = tspo("report", evals, "--table", table, "--format", "csv", "--baseline", "rag")
        rows = list(csv.reader(io.StringIO(done.stdout)))
        assert len({len(row) for row in rows}) == 1, table
        assert not any("{" in cell or "[" in cell for row in rows for cell in row), (
            "one value per cell"
        )


def test_report_reads_folders_of_tspo_eval(demo: Path, tmp_path: Path) -> None:
    item = {"id": "a", "question": "?", "golden_answers": ["x"], "em": 1.0, "f1": 1.0}
    item["trajectory"] = {"sample": 0, "answer": "x", "failed": False, "turns": []}
    make_evaluation(tmp_path / "evals" / "rag", "rag", [item])
    found = tspo_json("report", tmp_path / "evals")
    assert found["rows"] == found["evaluations"]
    assert [(row["run"], row["method"], row["em"], row["evaluation"]) for row in found["rows"]] == [
        ("rag", "rag", 1.0, True)
    ]
    both = tspo_json("report", demo, tmp_path / "evals")
    assert {row["run"] for row in both["evaluations"]}.isdisjoint(
        {row["run"] for row in both["rows"]}
    )
    assert len(both["evaluations"]) == 1
    assert "rag" in tspo("runs", "ls", tmp_path).stdout


def test_report_with_published_rows(tmp_path: Path) -> None:
    item = {"id": "a", "question": "?", "golden_answers": ["x"], "em": 1.0, "f1": 1.0}
    item["trajectory"] = {"sample": 0, "answer": "x", "failed": False, "turns": []}
    make_evaluation(tmp_path / "rag", "rag", [item], dataset="nq")
    page = tmp_path / "page.html"
    done = tspo(
        "report",
        tmp_path / "rag",
        "--table",
        "main",
        "--published",
        "2503.09516v5 7B",
        "--html",
        page,
    )
    assert "Search-R1 base PPO, 7B†ˢ" in done.stdout.replace("S", "ˢ").replace("ˢearch", "Search")
    assert page.read_text(encoding="utf-8").count('class="tag published"') == 13


def test_report_writes_the_page_and_says_where(demo: Path, tmp_path: Path) -> None:
    page = tmp_path / "new" / "page.html"
    done = tspo("report", demo, "--html", page)
    assert done.exit_code == 0
    assert f"page: {page}" in done.stderr
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_report_draws_the_curves_of_runs(demo: Path, tmp_path: Path) -> None:
    figure = tmp_path / "new" / "curves.svg"
    assert tspo("report", demo, "--figure", figure).exception is None
    drawn = figure.read_text(encoding="utf-8")
    assert "<!-- grpo (1) -->" in drawn
    assert "sft" not in drawn
    assert isinstance(tspo("report", demo, "--figure", tmp_path / "x.gif").exception, UsageError)
    assert isinstance(
        tspo("report", demo / "warmstart", "--figure", figure).exception, MissingResourceError
    )


def test_report_of_a_sweep_makes_the_ordinary_tables_when_asked(tmp_path: Path) -> None:
    arms = (("grpo", 0.2), ("tspo", 0.5))
    cells = [
        {"name": f"{arm}/seed{seed}", "arm": arm, "place": {}, "seed": seed}
        for arm, _ in arms
        for seed in (0, 1)
    ]
    for arm, end in arms:
        for seed in (0, 1):
            config = Config.model_validate(
                {"seed": seed, "credit": {"algorithm": arm}, "train": {"steps": 2}}
            )
            make_run(tmp_path / arm / f"seed{seed}", config, 2, {0: 0.1, 2: end})
    runs.write_json(
        tmp_path / "sweep.json",
        {"file": "x", "baseline": "grpo", "axes": [], "grid": [], "cells": cells},
    )
    found = tspo_json("report", tmp_path, "--table", "main", "--table", "cost")
    assert list(found["main"][1]["against"]) == ["grpo"], "the sweep's own baseline"
    assert len(found["cost"]) == 4
    assert "sweep" in tspo_json("report", tmp_path)


def test_report_says_which_run_has_no_evaluation(tmp_path: Path) -> None:
    make_run(tmp_path / "new", Config(), 2, {}, state="failed")
    done = tspo("report", tmp_path / "new", "--json")
    assert json.loads(done.stdout) == {"rows": [], "evaluations": []}
    assert "new: no evaluation yet" in done.stderr
    assert "new: failed at step 2 of 100" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["--format", "xml"], UsageError, "choose one of table, md, csv, latex, json"),
        (["--format", "csv", "--json"], UsageError, "exclude each other"),
        (["--baseline", "ppo"], MissingResourceError, "there are: grpo"),
        (["--table", "nope"], UsageError, "choose one of rows, main"),
        (["--table", "all", "--format", "csv"], UsageError, "choose one of rows, main"),
        (["--published", "nonsense"], UsageError, "try 3B, 7B or all"),
    ],
)
def test_report_refuses(
    demo: Path, arguments: list[str], error: type[Exception], words: str
) -> None:
    done = tspo("report", demo, *arguments)
    assert isinstance(done.exception, error)
    assert words in str(done.exception)


def test_report_of_a_folder_without_runs(tmp_path: Path) -> None:
    assert isinstance(tspo("report", tmp_path).exception, MissingResourceError)
    assert isinstance(tspo("report", tmp_path / "none").exception, MissingResourceError)
