"""The same rows in five forms, whatever the names contain."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from tests.reporting.tree import HOSTILE, make_tree
from tspo_cli.errors import UsageError
from tspo_cli.reporting.rendering.markup import latex_escape
from tspo_cli.reporting.rendering.render import render as render_tables
from tspo_cli.reporting.rendering.table import Cell, Column, Format, Table
from tspo_cli.reporting.scores.baseline import differences
from tspo_cli.reporting.scores.end_rows import Row, result_rows
from tspo_cli.reporting.sources.run_view import open_runs
from tspo_cli.reporting.tables.questions_table import questions_table
from tspo_cli.reporting.tables.rows_table import records, results_table

ROW = Row(
    HOSTILE,
    "tspo",
    1,
    60,
    True,
    "te\nst",
    "agent",
    5,
    0.4,
    0.1,
    0.8,
    0.5,
    None,
    None,
    2.0,
    0.0,
    1e-6,
    "tspo train",
)


def render(rows: list[dict[str, Any]], form: Format) -> str:
    return render_tables([results_table(rows)], form)


def test_json_and_csv_keep_every_value(tmp_path: Path) -> None:
    views = open_runs([make_tree(tmp_path, steps=4)])
    rows = result_rows(views)
    plain = records(rows, differences(rows, views, "grpo"))
    assert json.loads(render(plain, Format.json)) == {"rows": plain}
    read = list(csv.DictReader(io.StringIO(render(plain, Format.csv))))
    assert [float(row["em"]) for row in read] == [row.em for row in rows]
    assert [row["p"] for row in read][:2] == ["", ""]
    assert float(read[3]["delta_em"]) == 0.25


def test_hostile_text_survives_csv_and_json() -> None:
    plain = records([ROW])
    assert json.loads(render(plain, Format.json))["rows"][0]["run"] == HOSTILE
    assert next(csv.DictReader(io.StringIO(render(plain, Format.csv))))["run"] == HOSTILE


def test_markdown_has_one_cell_per_column() -> None:
    lines = render(records([ROW]), Format.md).splitlines()
    unescaped = [line.replace("\\|", "").count("|") for line in lines[:3]]
    assert lines[3] == ""
    assert "Wilson" in lines[4]
    assert len(set(unescaped)) == 1
    assert "\\<script\\>" in lines[2]
    assert "te st" in lines[2]


def test_latex_is_a_booktabs_table_of_printed_characters() -> None:
    lines = render(records([ROW]), Format.latex).splitlines()
    assert [line for line in lines if line.endswith("rule")] == [
        r"\toprule",
        r"\midrule",
        r"\bottomrule",
    ]
    row = next(line for line in lines if line.endswith(r"\\") and "script" in line)
    assert r"\textless{}script\textgreater{}" in row
    assert (
        r"\& \$5 50\% a\_b \{c\} \textbar{} \# \textbackslash{} "
        r"\textasciitilde{} \textasciicircum{}" in row
    )


@pytest.mark.parametrize("character", "&%$#_{}")
def test_latex_specials_never_stand_bare(character: str) -> None:
    assert latex_escape(f"a{character}b") == f"a\\{character}b"


def test_latex_makes_no_ligature_of_a_command() -> None:
    """`tspo train --out` was printed with a dash, which no shell takes."""
    assert latex_escape("tspo --out a-b ---x") == "tspo -{}-out a-b -{}-{}-x"
    assert latex_escape("``a'' ,,b") == r"\textasciigrave{}\textasciigrave{}a'{}' ,{},b"


def test_the_terminal_table_reads_no_markup_and_no_control_codes() -> None:
    text = render(records([ROW, ROW]), Format.table)
    assert "[red]x[/red] [/]" in text
    assert "\x1b" not in render(records([ROW]), Format.table)
    assert "40.0" in text
    assert "10.0 to 80.0" in text


def test_empty_columns_are_left_out_and_no_rows_is_no_error() -> None:
    assert "gold recall" not in render(records([ROW]), Format.table)
    for form in Format:
        assert render([], form)


RANKED = Table(
    name="main",
    title="EM & co",
    columns=(Column("method", False), Column("nq")),
    rows=(
        (Cell("a_b"), Cell("40.1", second=True)),
        (Cell("tspo"), Cell("52.7", best=True, letters="ab")),
        (Cell("Paper, 7B", letters="†S"), Cell("48.0")),
    ),
    records=[{"method": "tspo"}],
    notes=("† 100 % published.",),
    quoted=frozenset({2}),
)


def test_emphasis_letters_and_quoted_rows_in_every_form() -> None:
    latex = render_tables([RANKED], Format.latex)
    assert r"a\_b & \underline{40.1} \\" in latex
    assert r"tspo & \textbf{52.7}\textsuperscript{ab} \\" in latex
    assert (
        "\\midrule\n\\textit{Paper, 7B}\\textsuperscript{\\textdagger{}S} & \\textit{48.0}" in latex
    )
    assert r"% \textdagger{} 100 \% published." in latex
    markdown = render_tables([RANKED], Format.md)
    assert "| a\\_b | <u>40.1</u> |" in markdown
    assert "| tspo | **52.7**<sup>ab</sup> |" in markdown
    assert "| *Paper, 7B*<sup>†S</sup> | *48.0* |" in markdown
    plain = render_tables([RANKED], Format.table)
    assert "*52.7ᵃᵇ" in plain
    assert "_40.1" in plain
    assert "* best, _ second." in plain
    colored = render_tables([RANKED], Format.table, color=True)
    assert "\x1b[1m52.7ᵃᵇ" in colored
    assert "\x1b[4m40.1" in colored


def test_several_tables_are_titled_and_never_one_csv() -> None:
    two = [results_table(records([ROW])), RANKED]
    assert "### EM \\& co" in render_tables(two, Format.md)
    assert "% EM & co" in render_tables(two, Format.latex)
    assert set(json.loads(render_tables(two, Format.json))) == {"rows", "main"}
    with pytest.raises(UsageError, match="one table; choose one of rows, main"):
        render_tables(two, Format.csv)


def test_a_table_without_rows_says_so_in_place_of_its_columns() -> None:
    table = questions_table([])
    text = render_tables([table], Format.table)
    assert text == f"{table.title}: nothing to show\n{table.notes[0]}"
    assert "data.recycle" in text
    assert render_tables([table], Format.csv).startswith("run,drawn,")
