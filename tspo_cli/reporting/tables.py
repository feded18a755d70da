"""Tables as text: for the terminal, Markdown, CSV, LaTeX (booktabs) and JSON."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from tspo_cli.errors import UsageError
from tspo_cli.reporting.marks import printable


class Format(StrEnum):
    """Forms of a table."""

    table = "table"
    md = "md"
    csv = "csv"
    latex = "latex"
    json = "json"


@dataclass(frozen=True, slots=True)
class Cell:
    """Text for people. `best` is set in bold, `second` underlined; `letters` are superscript; `hint` explains it."""

    text: str
    best: bool = False
    second: bool = False
    letters: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A heading, and whether what stands below it are numbers."""

    heading: str
    numeric: bool = True


@dataclass(frozen=True, slots=True)
class Table:
    """One table for people, and the same as plain `records` for machines (CSV and JSON).

    `quoted` are the places of rows that were not measured here: they are set apart in every form. `fields` are the
    columns of an empty CSV; `flat` are records without nesting, where `records` have some.
    """

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    records: list[dict[str, Any]]
    notes: tuple[str, ...] = ()
    quoted: frozenset[int] = field(default_factory=frozenset)
    fields: tuple[str, ...] = ()
    flat: list[dict[str, Any]] | None = None


def cells(texts: Sequence[str]) -> tuple[Cell, ...]:
    """A row without any emphasis."""
    return tuple(map(Cell, texts))


def render(tables: Sequence[Table], form: Format, *, width: int | None = None, color: bool = False) -> str:
    """The tables in one of the forms, titled where there are several. `width` and `color` concern the terminal.

    Raises:
        UsageError: CSV of several tables.
    """
    if form is Format.json:
        return json.dumps({table.name: table.records for table in tables}, ensure_ascii=False, indent=2)
    if form is Format.csv:
        if len(tables) > 1:
            raise UsageError(f"--format csv is one table; choose one of {', '.join(table.name for table in tables)}")
        return _csv(tables[0])
    titled = len(tables) > 1
    if form is Format.md:
        return "\n\n".join(_markdown(table, titled) for table in tables)
    if form is Format.latex:
        return "\n\n".join(_latex(table, titled) for table in tables)
    return "\n\n".join(_terminal(table, width, color, titled) for table in tables)


def percent(share: float | None) -> str:
    """A share in percent with one decimal, empty for None."""
    return number(share, "{:.1f}", 100)


def number(value: float | None, form: str, factor: float = 1) -> str:
    """`value` times `factor` in `form`, empty for None."""
    return "" if value is None else form.format(value * factor)


def p_text(p: float | None) -> str:
    """A p-value with three decimals, empty for None."""
    if p is None:
        return ""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _csv(table: Table) -> str:
    import pandas

    records = table.records if table.flat is None else table.flat
    columns = list(dict.fromkeys(key for record in records for key in record)) or list(table.fields)
    return pandas.DataFrame(records, columns=columns).to_csv(index=False).rstrip("\n")


_SUPERSCRIPT = str.maketrans("abcdefghijklmnoprstuvwxyz-+†‡", "ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻ⁻⁺†‡")


def _terminal(table: Table, width: int | None, color: bool, titled: bool) -> str:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    grid = RichTable(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in table.columns:
        grid.add_column(Text(column.heading), justify="right" if column.numeric else "left", overflow="fold")
    for place, row in enumerate(table.rows):
        # The style belongs to the text: as a style of the cell it would underline the padding, too.
        drawn = [Text.assemble((_plain(cell, color), _style(cell) if color else "")) for cell in row]
        grid.add_row(*drawn, style="italic dim" if place in table.quoted and color else "")
    out = io.StringIO()
    console = Console(file=out, width=width or 1000, force_terminal=color, highlight=False, markup=False)
    console.print(grid)
    ranked = any(cell.best for row in table.rows for cell in row)
    for note in (*(("* best, _ second.",) if ranked and not color else ()), *table.notes):
        console.print(Text(printable(note), style="dim" if color else ""))
    text = "\n".join(line.rstrip() for line in out.getvalue().splitlines()).strip("\n")
    return f"{table.title}\n\n{text}" if titled else text


def _style(cell: Cell) -> str:
    return "bold" if cell.best else "underline" if cell.second else ""


def _plain(cell: Cell, color: bool) -> str:
    mark = "" if color else "*" * cell.best or "_" * cell.second
    return f"{mark}{printable(cell.text)}{cell.letters.translate(_SUPERSCRIPT)}"


_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>|~$&#!])")


def _markdown(table: Table, titled: bool) -> str:
    lines = [
        [column.heading for column in table.columns],
        ["---:" if column.numeric else ":---" for column in table.columns],
        *[[_markdown_cell(cell, place in table.quoted) for cell in row] for place, row in enumerate(table.rows)],
    ]
    text = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    notes = "".join(f"\n\n{_markdown_text(note)}" for note in table.notes)
    return (f"### {_markdown_text(table.title)}\n\n" if titled else "") + text + notes


def _markdown_text(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def _markdown_cell(cell: Cell, quoted: bool) -> str:
    text = _markdown_text(cell.text)
    if cell.best:
        text = f"**{text}**"
    elif cell.second:
        text = f"<u>{text}</u>"
    elif quoted and text:
        text = f"*{text}*"
    return text + (f"<sup>{_markdown_text(cell.letters)}</sup>" if cell.letters else "")


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
    "±": r"$\pm$",
    "×": r"$\times$",
    "−": r"$-$",
    "†": r"\textdagger{}",
    "‡": r"\textdaggerdbl{}",
    **{character: "\\" + character for character in "&%$#_{}"},
}


def latex_escape(text: str) -> str:
    """Text that LaTeX prints as it stands (needs T1 fonts for a straight double quote)."""
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))


def _latex(table: Table, titled: bool) -> str:
    body = []
    for place, row in enumerate(table.rows):
        quoted = place in table.quoted
        if quoted and place - 1 not in table.quoted and place:
            body.append(r"\midrule")
        body.append(" & ".join(_latex_cell(cell, quoted) for cell in row) + r" \\")
    return "\n".join(
        [
            *([f"% {table.title}"] if titled else []),
            r"% \usepackage{booktabs}",
            r"\begin{tabular}{" + "".join("r" if column.numeric else "l" for column in table.columns) + "}",
            r"\toprule",
            " & ".join(latex_escape(column.heading) for column in table.columns) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            *[f"% {latex_escape(note)}" for note in table.notes],
        ]
    )


def _latex_cell(cell: Cell, quoted: bool) -> str:
    text = latex_escape(cell.text)
    if cell.best:
        text = rf"\textbf{{{text}}}"
    elif cell.second:
        text = rf"\underline{{{text}}}"
    elif quoted and text:
        text = rf"\textit{{{text}}}"
    return text + (rf"\textsuperscript{{{latex_escape(cell.letters)}}}" if cell.letters else "")
