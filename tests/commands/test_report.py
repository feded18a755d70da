"""tspo report, inspect and runs from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from tests.reporting.tree import HOSTILE, make_run, make_tree
from tspo_cli import runs
from tspo_cli.commands import inspect_cmd, report, runs_cmd
from tspo_cli.config.schema import Config
from tspo_cli.errors import InvalidInputError, MissingResourceError, UsageError

app = typer.Typer()
app.command("report")(report.report)
app.command("inspect")(inspect_cmd.inspect)
app.add_typer(runs_cmd.app, name="runs")


def tspo(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def tspo_json(*arguments: object) -> Any:
    done = tspo(*arguments, "--json")
    assert done.exception is None, done.exception
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("tree"), steps=4)


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


def test_report_writes_the_page_and_says_where(demo: Path, tmp_path: Path) -> None:
    page = tmp_path / "new" / "page.html"
    done = tspo("report", demo, "--html", page)
    assert done.exit_code == 0
    assert f"page: {page}" in done.stderr
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


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
    ],
)
def test_report_refuses(demo: Path, arguments: list[str], error: type[Exception], words: str) -> None:
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
    assert tspo_json("inspect", demo / "grpo", "--group", 1)["groups"][0]["question"].endswith(HOSTILE)


def test_inspect_chooses_step_group_and_question(demo: Path) -> None:
    found = tspo_json("inspect", demo / "tspo", "--step", 2, "--group", 3)
    assert (found["step"], found["dataset"]) == (2, None)
    assert [group["group"] for group in found["groups"]] == [["world", "q2", 2]]
    assert tspo_json("inspect", demo / "tspo", "--question", "world/q5")["groups"][0]["group"][1] == "q5"
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
def test_inspect_says_what_is_wrong(demo: Path, arguments: list[str], error: type[Exception], words: str) -> None:
    done = tspo("inspect", demo / "tspo", *arguments)
    assert isinstance(done.exception, error)
    assert words in str(done.exception)


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


def test_a_damaged_configuration_is_named(tmp_path: Path) -> None:
    make_run(tmp_path / "bad", Config(), 2, {2: 0.5})
    (tmp_path / "bad" / runs.CONFIG_NAME).write_text("{", encoding="utf-8")
    done = tspo("runs", "ls", tmp_path)
    assert isinstance(done.exception, InvalidInputError)
    assert "config.resolved.json" in str(done.exception)
