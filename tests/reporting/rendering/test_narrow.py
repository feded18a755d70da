"""Tables on terminals that are too narrow for them."""

from __future__ import annotations

from typing import Any

import pytest
from rich.cells import cell_len

from tspo_cli.reporting.rendering.render import render
from tspo_cli.reporting.rendering.table import Column, Format, Table, cells
from tspo_cli.reporting.tables.evaluation_table import COLUMNS, audit_table, scores_table


@pytest.mark.parametrize("width", [1, 20, 40])
def test_no_figure_is_lost(width: int) -> None:
    columns = tuple(Column(f"h{number}") for number in range(10, 23))
    table = Table("main", "Main", columns, (cells(["0.5"] * 13),), [{}], notes=("a note",))
    text = render([table], Format.table, width=width)
    assert text.count("0.5") == 13
    for column in columns:
        assert column.heading in text


def _runs() -> Table:
    names = ("run", "algorithm", "seed", "step", "EM %", "95 % interval", "answer found %", "F1 %")
    columns = tuple(Column(name, numeric=name not in ("run", "algorithm")) for name in names)
    rows = [
        cells([run, run, "0", step, "44.3", "40.2 to 48.5", "60.0", "45.0"])
        for run in ("baselines/direct", "tspo")
        for step in ("0", "20")
    ]
    return Table("rows", "Runs", columns, tuple(rows), [{}])


@pytest.mark.parametrize("width", [50, 53, 56, 57, 58, 59, 60, 75, 76, 77, 78, 79, 80])
def test_a_wide_table_is_printed_in_parts_with_the_names_of_its_rows(width: int) -> None:
    text = render([_runs()], Format.table, width=width)
    parts = [part for part in text.split("\n\n\n") if part]
    assert len(parts) > 1
    for part in parts:
        assert " run " in part
        assert "step" in part
        assert "baselines/" in part
    assert all(len(line) <= width for line in text.split("\n"))
    for value in ("44.3", "40.2 to 48.5", "60.0", "45.0"):
        assert text.count(value) == 4
    assert text.count(" algorithm") == 1


def test_a_table_that_fits_is_one_part() -> None:
    text = render([_runs()], Format.table, width=120)
    assert len(text.split("\n")) == 2 + 4
    assert render([_runs()], Format.table) == text


def _scores(dataset: str, **more: float) -> dict[str, Any]:
    shares = dict.fromkeys(COLUMNS, 0.25)
    fixed = {"method": "iter_retgen", "n": 12_576, "k": 3, "em": 0.5, "em_low": 0.4, "em_high": 0.6}
    return {"dataset": dataset, **fixed, "ceiling": {"answer_in_corpus": 1.0}, **shares, **more}


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160])
@pytest.mark.parametrize("dataset", ["nq", "2wikimultihopqa", "問題集"])
def test_scores_fit_into_a_terminal(width: int, dataset: str) -> None:
    results = [_scores(dataset, failed=2, refused=1), _scores("bamboogle", judge=0.5)]
    average = {"questions": {"em": 0.5, "f1": 0.25}}
    table = scores_table(results, average, width=width, rest="evals/a/*.json")
    heading, *lines = table.rstrip("\n").split("\n")
    assert all(cell_len(line) <= width for line in table.split("\n"))
    assert heading.split()[:3] == ["dataset", "method", "n"]
    assert "em" in heading.split()
    assert "95 %" in heading
    assert lines[0].startswith(dataset)
    assert lines[2].startswith("mean of questions")
    assert len(lines[0].split()) == len(heading.split()) - 1  # 95 % is two words
    left_out = " ".join(lines[3:])
    for name in (*COLUMNS, "k", "ceiling", "failed", "refused", "judge"):
        assert (name in heading.split()) != (f" {name}," in left_out or f" {name};" in left_out)
    assert "evals/a/*.json has them" in left_out


def test_what_counts_as_wrong_is_shown_before_what_explains() -> None:
    heading = scores_table([_scores("nq", failed=2, judge=0.5)], width=80).split("\n")[0]
    assert heading.split()[-2:] == ["failed", "judge"]
    assert "f1" in heading
    assert "ceiling" not in heading


def test_files_and_pipes_have_every_score() -> None:
    heading, line = scores_table([_scores("nq")]).rstrip().split("\n")
    assert [*COLUMNS] == heading.split()[-len(COLUMNS) :]
    assert line.startswith("nq")


@pytest.mark.parametrize("width", [60, 80, 120, None])
def test_an_audit_fits_into_a_terminal(width: int | None) -> None:
    search = [{"k": k, "answer_in_retrieved": 0.5, "gold_recall": 0.25} for k in (3, 5, 10)]
    row = {"n": 12_576, "answer_in_corpus": 0.9, "gold_in_corpus": None, "search": search}
    table = audit_table([{"dataset": "2wikimultihopqa", **row}], width=width)
    assert width is None or all(len(line) <= width for line in table.split("\n"))
    assert ("answer in top 10 %" in table.split("\n")[0]) == (width is None)
    assert table.count("90.0") == 1
    if width == 80:
        assert "not shown in 80 columns: answer in top 5 %, gold in top 5 %, gold" in table


@pytest.mark.parametrize("width", [10, 20, 30, 40, 50])
def test_a_number_is_never_cut(width: int) -> None:
    """A terminal breaks lines that are too long; half of a number would be another number."""
    search = [{"k": k, "answer_in_retrieved": 0.5, "gold_recall": 0.25} for k in (3, 5, 10)]
    row = {"n": 12_576, "answer_in_corpus": 0.9, "gold_in_corpus": 0.8, "search": search}
    audit = audit_table([{"dataset": name, **row} for name in ("q", "hotpotqa")], width=width)
    for table in (audit, scores_table([_scores("q"), _scores("hotpotqa")], width=width)):
        shown = table.split("not shown")[0]
        assert shown.count("dataset") == 1
        rows = [line.split() for line in shown.split("\n") if "12576" in line]
        assert [line[0] for line in rows] == ["q", "hotpotqa"]
        numbers = {part for line in rows for part in line if part[0].isdigit()}
        assert numbers <= {"12576", "90.0", "80.0", "50.0", "25.0", "0.500", "0.400-0.600"}
