"""tspo report, inspect and runs from the command line."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from tests.reporting.tree import HOSTILE, make_evaluation, make_run, make_tree
from tspo_cli import runs
from tspo_cli.commands import inspect, report
from tspo_cli.commands import runs as runs_command
from tspo_cli.config.schema import Config
from tspo_cli.errors import InvalidInputError, MissingResourceError, UsageError

app = typer.Typer()
app.command("report")(report.report)
app.command("inspect")(inspect.inspect)
app.add_typer(runs_command.app, name="runs")


def tspo(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def tspo_json(*arguments: object) -> Any:
    done = tspo(*arguments, "--json")
    assert done.exception is None, done.exception
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("tree"), steps=4)


@pytest.fixture(scope="module")
def evals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods on two sets, a folder each."""
    root = tmp_path_factory.mktemp("evals")
    for method in ("rag", "ircot"):
        for dataset in ("nq", "popqa"):
            items = [
                {"id": f"{place}", "question": "?", "golden_answers": ["x"], "em": em, "f1": em}
                | {"trajectory": {"sample": 0, "answer": "x", "failed": False, "turns": []}}
                for place, em in enumerate([1.0, float(method == "ircot"), 0.0, 0.0])
            ]
            make_evaluation(root / method / dataset, method, items, dataset=dataset)
    return root


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


def test_inspect_shows_turns(demo: Path) -> None:
    done = tspo("inspect", demo / "tspo", "--class", "near-miss", "--limit", 1)
    assert done.exit_code == 0
    assert "near-miss · outcome 0" in done.stdout
    assert "gold answer first occurs here" in done.stdout
    assert "»Silver Brook«" in done.stdout
    assert "advantage" in done.stdout
    assert "success" not in done.stdout
    assert "rollouts of step 4: 1 of" in done.stderr


def test_inspect_reads_no_markup_from_a_run(tmp_path: Path) -> None:
    demo = make_tree(tmp_path, hostile=True, steps=4)
    done = tspo("inspect", demo / "grpo", "--limit", 0)
    assert done.exit_code == 0
    assert "[red]x[/red] [/]" in done.stdout
    assert tspo_json("inspect", demo / "grpo", "--group", 1)["groups"][0]["question"].endswith(
        HOSTILE
    )


def test_inspect_chooses_step_group_and_question(demo: Path) -> None:
    found = tspo_json("inspect", demo / "tspo", "--step", 2, "--group", 3)
    assert (found["step"], found["dataset"]) == (2, None)
    assert [group["group"] for group in found["groups"]] == [["world", "q2", 2]]
    assert (
        tspo_json("inspect", demo / "tspo", "--question", "world/q5")["groups"][0]["group"][1]
        == "q5"
    )
    assert len(tspo_json("inspect", demo / "tspo", "--limit", 2)["groups"]) == 2
    assert len(tspo_json("inspect", demo / "tspo", "--limit", 0)["groups"]) == 10


def test_inspect_shows_evaluated_items(demo: Path) -> None:
    found = tspo_json("inspect", demo / "tspo", "--eval", "--question", "t39")
    assert (found["dataset"], found["step"]) == ("test", 4)
    assert found["groups"][0]["trajectories"][0]["class"] == "miss"
    assert tspo_json("inspect", demo / "warmstart")["dataset"] == "test"


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        (["--step", "9"], MissingResourceError, "kept steps: 1, 2, 3, 4"),
        (["--group", "11"], MissingResourceError, "groups 1 to 10"),
        (["--group", "0"], MissingResourceError, "groups 1 to 10"),
        (["--question", "nope"], MissingResourceError, "not among these 10 groups"),
        (["--class", "nope"], MissingResourceError, "there are: "),
        (["--dataset", "nope"], MissingResourceError, "it has rollouts, items of test"),
        (["--limit", "-1"], UsageError, "--limit -1"),
    ],
)
def test_inspect_says_what_is_wrong(
    demo: Path, arguments: list[str], error: type[Exception], words: str
) -> None:
    done = tspo("inspect", demo / "tspo", *arguments)
    assert isinstance(done.exception, error)
    assert words in str(done.exception)


def test_inspect_filters_lists_and_finds(demo: Path) -> None:
    lines = tspo("inspect", demo / "tspo", "--eval", "--list").stdout.splitlines()
    assert lines[0].split() == ["#", "right", "searches", "class", "id", "question", "answer"]
    assert len(lines) == 41
    assert lines[1].split()[:5] == ["1", "1/1", "2", "success", "test/t0"]
    assert max(map(len, lines)) <= 120
    invalid = tspo_json("inspect", demo / "tspo", "--eval", "--invalid", "--limit", 0)["groups"]
    assert [group["group"][1] for group in invalid] == [f"t{index}" for index in range(16, 40)]
    near = tspo_json("inspect", demo / "tspo", "--near-miss", "--limit", 0)["groups"]
    assert {one["class"] for group in near for one in group["trajectories"]} == {"near-miss"}
    found = tspo_json("inspect", demo / "tspo", "--eval", "--find", "NUMBER t7 brook")["groups"]
    assert [group["group"][1] for group in found] == ["t7"]


def test_inspect_compares_two_runs(demo: Path) -> None:
    found = tspo_json("inspect", demo / "tspo", "--compare", demo / "grpo", "--limit", 0)
    assert found["right"] == {"both": 6, "first": 10, "second": 0, "none": 24}
    assert found["p_mcnemar"] == pytest.approx(2 * 0.5**10)
    assert [one["id"] for one in found["questions"]] == [f"test/t{index}" for index in range(6, 16)]
    done = tspo("inspect", demo / "tspo", "--compare", demo / "grpo", "--limit", 1)
    assert "40 questions: both right 6, only tspo 10, only grpo 0, both wrong 24" in done.stderr
    left, right = next(line for line in done.stdout.splitlines() if "outcome" in line).split(
        "rollout 1 · "
    )[1:]
    assert left.startswith("success · outcome 1")
    assert right.startswith("miss · outcome 0")
    both = tspo_json(
        "inspect", demo / "tspo", "--compare", demo / "grpo", "--only", "both", "--limit", 0
    )
    assert len(both["questions"]) == 6


def test_inspect_browses(demo: Path) -> None:
    said = "\n".join(["", "p", "l", "4", "/number 8", "/nowhere", "what", "q"]) + "\n"
    done = CliRunner().invoke(app, ["inspect", str(demo / "tspo"), "--browse"], input=said)
    assert done.exception is None, done.exception
    headings = [line.split()[0] for line in done.stdout.splitlines() if line.startswith("world/q")]
    assert headings == [f"world/q{index}" for index in (0, 1, 0, 0, 3, 8, 8, 8)]
    assert "--find nowhere: no question" in done.stderr
    assert "what: not one of these" in done.stderr


def test_inspect_exports_trec_files_that_give_the_recall(tmp_path: Path) -> None:
    demo = make_tree(tmp_path, steps=4)
    path = demo / "tspo" / "eval" / "step_000004" / "test.items.jsonl.gz"
    # Both searches return p9; p1 and p2 come from one search each, p8 from none.
    gold = [["p1"], ["p9", "p8"], ["p8"], []]
    items = [
        item | {"supporting_ids": gold[place % 4]}
        for place, item in enumerate(runs.read_jsonl_gz(path))
    ]
    runs.write_jsonl_gz(path, items)
    run, qrels = tmp_path / "out.run", tmp_path / "out.qrels"
    done = tspo("inspect", demo / "tspo", "--trec-run", run, "--qrels", qrels)
    assert done.exception is None, done.exception
    assert f"{run}: 120 lines, 40 questions" in done.stderr
    lines = [line.split() for line in run.read_text().splitlines()]
    assert [line[:5] for line in lines[:3]] == [
        ["t0", "Q0", "p1", "1", "3"], ["t0", "Q0", "p9", "2", "2"], ["t0", "Q0", "p2", "3", "1"],
    ]  # fmt: skip
    wanted: dict[str, set[str]] = {}
    for question, zero, passage, grade in (line.split() for line in qrels.read_text().splitlines()):
        assert (zero, grade) == ("0", "1")
        wanted.setdefault(question, set()).add(passage)
    found = {name: {line[2] for line in lines if line[0] == name} for name in wanted}
    assert len(wanted) == 30
    assert (
        sum(len(wanted[name] & found[name]) / len(wanted[name]) for name in wanted)
        == 10 * 1 + 10 * 0.5
    )


def test_inspect_says_in_json_what_it_exported(demo: Path, tmp_path: Path) -> None:
    run = tmp_path / "out.run"
    assert tspo_json("inspect", demo / "tspo", "--trec-run", run)["files"] == [
        {"path": str(run), "lines": 120, "questions": 40}
    ]


def test_inspect_refuses_what_trec_cannot_carry(tmp_path: Path) -> None:
    demo = make_tree(tmp_path, steps=4)
    done = tspo("inspect", demo / "tspo", "--qrels", tmp_path / "x")
    assert isinstance(done.exception, MissingResourceError)
    assert "supporting_ids" in str(done.exception)
    path = demo / "tspo" / "eval" / "step_000004" / "test.items.jsonl.gz"
    runs.write_jsonl_gz(path, [item | {"id": "a b"} for item in runs.read_jsonl_gz(path)])
    done = tspo("inspect", demo / "tspo", "--trec-run", tmp_path / "x")
    assert isinstance(done.exception, InvalidInputError)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--only", "first"],
        ["--near-miss", "--class", "miss"],
        ["--list", "--browse"],
        ["--compare", "x", "--only", "y"],
    ],
)
def test_inspect_refuses_contradictions(demo: Path, arguments: list[str]) -> None:
    assert isinstance(tspo("inspect", demo / "tspo", *arguments).exception, UsageError)


def test_inspect_asks_when_an_id_or_data_set_is_ambiguous(tmp_path: Path) -> None:
    demo = make_tree(tmp_path, steps=4)
    path = demo / "tspo" / "rollouts" / "step_000004.jsonl.gz"
    groups = list(runs.read_jsonl_gz(path))
    runs.write_jsonl_gz(path, [*groups, groups[0] | {"group": ["other", "q0", 4]}])
    done = tspo("inspect", demo / "tspo", "--question", "q0")
    assert isinstance(done.exception, UsageError)
    assert "other/q0, world/q0" in str(done.exception)
    items = demo / "tspo" / "eval" / "step_000004" / "test.items.jsonl.gz"
    items.with_name("more.items.jsonl.gz").write_bytes(items.read_bytes())
    done = tspo("inspect", demo / "tspo", "--eval")
    assert isinstance(done.exception, UsageError)
    assert "--dataset: more, test" in str(done.exception)


def test_inspect_needs_a_run(tmp_path: Path) -> None:
    assert isinstance(tspo("inspect", tmp_path).exception, MissingResourceError)


def test_runs_ls(demo: Path) -> None:
    found = tspo_json("runs", "ls", demo)["runs"]
    assert [(one["run"], one["state"], one["step"]) for one in found][2] == ("tspo-b", "running", 2)
    lines = tspo("runs", "ls", demo).stdout.splitlines()
    assert lines[0].split()[:3] == ["run", "algorithm", "seed"]
    assert lines[2].split() == ["tspo", "tspo", "1", "finished", "4/4", "test", "0.4"]


def test_runs_show(demo: Path) -> None:
    found = tspo_json("runs", "show", demo / "tspo")
    assert found["seconds"] == 6.0
    assert [one["step"] for one in found["evaluations"]] == [0, 2, 4]
    text = tspo("runs", "show", demo / "tspo").stdout
    assert "credit.success_turns" in text
    assert "tspo train tspo.toml" in text


def test_runs_diff(demo: Path) -> None:
    found = tspo_json("runs", "diff", demo / "tspo", demo / "grpo")
    assert found["config"] == {"credit.algorithm": ["tspo", "grpo"]}
    assert found["metrics"]["test/em"] == [0.4, 0.15]
    text = tspo("runs", "diff", demo / "tspo", demo / "warmstart").stdout
    assert "optimizer.lr" in text
    assert "config: no difference" in tspo("runs", "diff", demo / "tspo", demo / "tspo").stdout


def test_runs_diff_of_evaluations_names_method_model_and_digests(tmp_path: Path) -> None:
    item = {
        "id": "a",
        "question": "?",
        "golden_answers": ["x"],
        "em": 1.0,
        "f1": 1.0,
        "trajectory": {"turns": []},
    }
    for method, corpus in (("rag", "c1"), ("ircot", "c2")):
        make_evaluation(tmp_path / method, method, [item], model=f"model-{method}")
        path = tmp_path / method / "eval.json"
        record = runs.read_json(path)
        record["results"][0]["digests"] = {"corpus": corpus, "data": "same"}
        runs.write_json(path, record)
    assert tspo_json("runs", "diff", tmp_path / "rag", tmp_path / "ircot")["config"] == {
        "method": ["rag", "ircot"],
        "model": ["model-rag", "model-ircot"],
        "digests.test.corpus": ["c1", "c2"],
    }


def test_a_damaged_configuration_is_named(tmp_path: Path) -> None:
    make_run(tmp_path / "bad", Config(), 2, {2: 0.5})
    (tmp_path / "bad" / runs.CONFIG_NAME).write_text("{", encoding="utf-8")
    done = tspo("runs", "ls", tmp_path)
    assert isinstance(done.exception, InvalidInputError)
    assert "config.resolved.json" in str(done.exception)
