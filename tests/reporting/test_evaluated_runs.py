"""A run and the evaluation of its model belong together; labels name what matters alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from tests.reporting.tree import ITEM, make_evaluation, make_run
from tspo_cli import runs
from tspo_cli.config.schema import Config
from tspo_cli.errors import MissingResourceError
from tspo_cli.reporting.page.page import render_page
from tspo_cli.reporting.run_report import RunReport
from tspo_cli.reporting.sources.arms import group_arms
from tspo_cli.reporting.sources.overview import listing, summaries
from tspo_cli.reporting.sources.run_view import open_runs
from tspo_cli.reporting.tables.evaluation_table import scores_table


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two runs without evaluations of their own, and an evaluation of the model of the first."""
    for name in ("sft1", "sft2"):
        make_run(tmp_path / "runs" / name, Config.model_validate({"kind": "sft"}), 2, {})
    model = str(tmp_path / "runs" / "sft1" / "model")
    make_evaluation(tmp_path / "evals" / "sft1-rag", "rag", [ITEM], model=model)
    return tmp_path


def test_an_evaluated_run_is_not_called_unevaluated(folder: Path) -> None:
    both = RunReport(open_runs([folder / "runs", folder / "evals"]))
    assert both.messages() == ["runs/sft2: no evaluation yet"]
    alone = RunReport(open_runs([folder / "runs"]))
    assert alone.messages() == ["sft1 and 1 more: no evaluation yet"]


def test_what_several_runs_warned_of_is_said_once(folder: Path) -> None:
    """A sweep of 20 runs repeated each warning of its settings 20 times above its table."""
    for name, sentences in (("sft1", ["too short", "too wide"]), ("sft2", ["too short"])):
        path = folder / "runs" / name / runs.STATUS_NAME
        runs.write_json(path, runs.read_json(path) | {"warnings": sentences})
    said = RunReport(open_runs([folder / "runs"])).messages()
    assert said[:2] == ["sft1 and 1 more: too short", "sft1: too wide"]


def test_a_listing_has_the_em_of_the_evaluation(folder: Path) -> None:
    em = {line["run"]: line["em"] for line in summaries(open_runs([folder]))}
    assert em == {"runs/sft1": {"test": 1.0}, "runs/sft2": {}, "evals/sft1-rag": {"test": 1.0}}


def change(folder: Path, **values: Any) -> None:
    """Settings of an evaluation, as section__key."""
    path = folder / runs.EVAL_SUMMARY_NAME
    record = runs.read_json(path)
    for key, value in values.items():
        section, _, name = key.partition("__")
        record["config"][section][name] = value
    runs.write_json(path, record)


def test_labels_of_evaluations_name_what_changes_an_answer(tmp_path: Path) -> None:
    for number in (1, 2):
        make_evaluation(tmp_path / f"e{number}", "rag", [ITEM], model=f"m{number}")
    change(
        tmp_path / "e2", rollout__group_size=4, rollout__questions_per_step=2, optimizer__lr=0.5,
        retriever__timeout=1.0,
    )  # fmt: skip
    assert [arm.label for arm in group_arms(open_runs([tmp_path]))] == ["rag (m1)", "rag (m2)"]
    change(tmp_path / "e2", eval__answer="tags", rollout__max_new_tokens=9)
    assert [arm.label for arm in group_arms(open_runs([tmp_path]))] == [
        "rag (m1, max_new_tokens=500, answer=auto)",
        "rag (m2, max_new_tokens=9, answer=tags)",
    ]


@pytest.mark.parametrize(
    ("fault", "cell", "note"),
    [
        ({"refused": 3}, "3", "questions that the server refused, which count as wrong: test 3 of"),
        ({"invalid_calls": 0.25}, "0.25", "invalid calls of functions per question: test 0.25."),
        ({"refused": 0}, None, ""),
        ({"invalid_calls": 0.0}, None, ""),
        ({}, None, ""),
    ],
)
def test_refused_questions_and_invalid_calls_are_shown_where_there_are_some(
    folder: Path, fault: dict[str, float], cell: str | None, note: str
) -> None:
    path = folder / "evals" / "sft1-rag" / runs.EVAL_SUMMARY_NAME
    record = runs.read_json(path)
    record["results"][0] |= fault
    runs.write_json(path, record)
    report = RunReport(open_runs([folder / "evals"]))
    rows, page = report.table("rows"), render_page(report)
    headings = [column.heading for column in rows.columns]
    for heading in ("refused", "invalid calls"):
        shown = cell is not None and heading.replace(" ", "_") in fault
        assert (heading in headings) == shown
        assert (f">{heading}<" in page) == shown
        assert not shown or rows.rows[0][headings.index(heading)].text == cell
    notes = " ".join(report.table("main").notes)
    assert (note in notes) if note else "refused" not in notes and "invalid calls" not in notes
    assert note in page
    printed = scores_table(record["results"])
    assert ("refused" in printed or "invalid_calls" in printed) == (cell is not None)


def test_folders_that_cannot_be_read_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their runs would be missing from the table without a word."""
    deep = os.open(tmp_path, os.O_RDONLY)
    for _ in range(18):  # beyond the longest path of the system, for every user
        os.mkdir("d" * 250, dir_fd=deep)
        below = os.open("d" * 250, os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = below
    os.close(deep)
    make_run(tmp_path / "run", Config(), 2, {2: 0.5})
    assert [view.name for view in open_runs([tmp_path])] == ["run"]
    said = capsys.readouterr().err
    assert "dd: cannot be read (File name too long); what is in it is left out" in said


def test_a_run_that_this_user_may_not_enter_hides_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("closed", "open"):
        make_run(tmp_path / name, Config(), 2, {2: 0.5})
    (tmp_path / "closed").chmod(0o600)
    may = os.access
    monkeypatch.setattr(  # the system lets root enter
        os, "access", lambda path, mode: Path(path).name != "closed" and may(path, mode)
    )
    assert [view.name for view in open_runs([tmp_path])] == ["open"]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1
    assert "closed: cannot be read (Permission denied); what is in it is left out" in said[0]


def test_hidden_runs_below_a_folder_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that is named is shown. What a killed command left beside a folder is none of them."""
    for name in ("run", ".try", "deep/.try", ".run.replaced"):
        make_run(tmp_path / name, Config(), 2, {2: 0.5})
    make_evaluation(tmp_path / ".eval", "rag", [ITEM])
    assert [view.name for view in open_runs([tmp_path])] == ["run"]
    (said,) = capsys.readouterr().err.splitlines()
    assert said == (
        f"warning: {tmp_path}: 3 hidden runs or evaluations are left out (.eval, .try, deep/.try); "
        "a hidden one is shown where it is named itself"
    )
    assert [view.name for view in open_runs([tmp_path / ".try"])] == [".try"]
    assert [view.name for view in open_runs([tmp_path / ".try", tmp_path / "run"])] == [
        ".try",
        "run",
    ]
    assert not capsys.readouterr().err


def test_a_listing_says_hidden_runs_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("run", ".try"):
        make_run(tmp_path / name, Config(), 2, {2: 0.5})
    (tmp_path / "run" / runs.STATUS_NAME).write_text("[]")
    lines, unreadable = listing(tmp_path)
    assert (lines, [*unreadable]) == ([], ["run"])
    assert capsys.readouterr().err.count("1 hidden run or evaluation is left out (.try)") == 1
    with pytest.raises(MissingResourceError, match="no run or evaluation below it"):
        open_runs([tmp_path / "run" / "eval"])
