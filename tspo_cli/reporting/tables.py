"""Result rows as text: for the terminal, Markdown, CSV, LaTeX and JSON."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from tspo_cli.reporting.baseline import Difference
from tspo_cli.reporting.marks import printable
from tspo_cli.reporting.rows import Row


class Format(StrEnum):
    """Forms of a result table."""

    table = "table"
    md = "md"
    csv = "csv"
    latex = "latex"
    json = "json"


@dataclass(frozen=True, slots=True)
class Column:
    """One column for people: heading, the cell of a record, and whether it holds numbers."""

    heading: str
    cell: Callable[[dict[str, Any]], str]
    numeric: bool = True


def records(rows: Sequence[Row], differences: Sequence[Difference | None] | None = None) -> list[dict[str, Any]]:
    """The rows as plain objects; with a baseline each also has `baseline`, `delta_em`, `p` and `shared`."""
    plain = [asdict(row) for row in rows]
    for record, difference in zip(plain, differences or [], strict=False):
        record |= {
            "baseline": difference.baseline if difference else None,
            "delta_em": difference.delta_em if difference else None,
            "p": difference.p if difference else None,
            "shared": difference.shared if difference else None,
        }
    return plain


def render(rows: list[dict[str, Any]], form: Format, *, width: int | None = None, color: bool = False) -> str:
    """`records` in one of the forms. `width` and `color` concern the terminal table only."""
    if form is Format.json:
        return json.dumps({"rows": rows}, ensure_ascii=False, indent=2)
    if form is Format.csv:
        return _csv(rows)
    columns = columns_of(rows)
    cells = [[column.cell(row) for column in columns] for row in rows]
    if form is Format.md:
        return _markdown(columns, cells)
    return _latex(columns, cells) if form is Format.latex else _terminal(columns, cells, width, color)


def columns_of(rows: Sequence[dict[str, Any]]) -> list[Column]:
    """The columns for people; those that say nothing in any row are left out."""
    columns = [
        Column("run", lambda row: row["run"], numeric=False),
        Column("algorithm", lambda row: row["algorithm"], numeric=False),
        Column("seed", lambda row: _plain(row["seed"])),
        Column("step", lambda row: _plain(row["step"])),
        Column("data set", lambda row: row["dataset"], numeric=False),
        Column("method", lambda row: row["method"], numeric=False),
        Column("n", lambda row: _plain(row["n"])),
        Column("EM %", lambda row: percent(row["em"])),
        Column("95 % interval", _interval),
        Column("EM vs baseline", lambda row: _number(row.get("delta_em"), "{:+.1f}", 100)),
        Column("p (McNemar)", _p_value),
        Column("F1 %", lambda row: percent(row["f1"])),
        Column("answer found %", lambda row: percent(row["answer_in_retrieved"])),
        Column("gold recall %", lambda row: percent(row["gold_recall"])),
        Column("searches", lambda row: _number(row["searches"], "{:.2f}")),
        Column("invalid %", lambda row: percent(row["invalid_share"])),
        Column("learning rate", lambda row: _number(row["lr"], "{:g}")),
    ]
    return [column for column in columns if not rows or any(column.cell(row) for row in rows)]


def percent(share: float | None) -> str:
    """A share in percent with one decimal, empty for None."""
    return _number(share, "{:.1f}", 100)


def _number(value: float | None, form: str, factor: float = 1) -> str:
    return "" if value is None else form.format(value * factor)


def _plain(value: Any) -> str:
    return "" if value is None else str(value)


def _interval(row: dict[str, Any]) -> str:
    return "" if row["em_low"] is None else f"{percent(row['em_low'])} to {percent(row['em_high'])}"


def _p_value(row: dict[str, Any]) -> str:
    p = row.get("p")
    if p is None:
        return ""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    import pandas

    columns = list(rows[0]) if rows else list(Row.__dataclass_fields__)
    return pandas.DataFrame(rows, columns=columns).to_csv(index=False).rstrip("\n")


def _terminal(columns: Sequence[Column], cells: Sequence[list[str]], width: int | None, color: bool) -> str:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(Text(column.heading), justify="right" if column.numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*(Text(printable(cell)) for cell in row))
    out = io.StringIO()
    Console(file=out, width=width or 1000, force_terminal=color, highlight=False).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).strip("\n")


_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|~$&#!])")


def _markdown(columns: Sequence[Column], cells: Sequence[list[str]]) -> str:
    lines = [
        [column.heading for column in columns],
        ["---:" if column.numeric else ":---" for column in columns],
        *[[_MARKDOWN.sub(r"\\\1", " ".join(cell.split())) for cell in row] for row in cells],
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",
    "]": "{]}",
    **{character: "\\" + character for character in "&%$#_{}"},
}


def latex_escape(text: str) -> str:
    """Text that LaTeX prints as it stands (needs T1 fonts for a straight double quote)."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def _latex(columns: Sequence[Column], cells: Sequence[list[str]]) -> str:
    body = [" & ".join(map(latex_escape, row)) + r" \\" for row in cells]
    return "\n".join(
        [
            r"% \usepackage{booktabs}",
            r"\begin{tabular}{" + "".join("r" if column.numeric else "l" for column in columns) + "}",
            r"\toprule",
            " & ".join(latex_escape(column.heading) for column in columns) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
        ]
    )
