"""Tables as text: for the terminal, Markdown, CSV, LaTeX (booktabs) and JSON."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

from tspo_cli.errors import UsageError
from tspo_cli.reporting.rendering.markup import latex, markdown
from tspo_cli.reporting.rendering.table import Cell, Format, Table
from tspo_cli.text.printable import printable, printable_values
from tspo_cli.text.strict_json import json_text


def render(
    tables: Sequence[Table], form: Format, *, width: int | None = None, color: bool = False
) -> str:
    """The tables in one of the forms, titled where there are several. `width` and `color` concern
    the terminal.

    Raises:
        UsageError: CSV of several tables.
    """
    if form is Format.json:
        return json_text({table.name: table.records for table in tables}, indent=2)
    if form is Format.csv:
        if len(tables) > 1:
            raise UsageError(
                "--format csv is one table; choose one of "
                f"{', '.join(table.name for table in tables)}"
            )
        return _csv(tables[0])
    titled = len(tables) > 1
    if form is Format.md:
        return "\n\n".join(markdown(table, titled) for table in tables)
    if form is Format.latex:
        return "\n\n".join(latex(table, titled) for table in tables)
    return "\n\n".join(_terminal(table, width, color, titled) for table in tables)


def _csv(table: Table) -> str:
    import pandas

    records = table.records if table.flat is None else table.flat
    # Before pandas has them: it fails of half a surrogate pair.
    records = printable_values(records)
    columns = list(dict.fromkeys(key for record in records for key in record)) or list(table.fields)
    return csv_text(pandas.DataFrame(records, columns=columns))


def csv_text(frame: Any) -> str:
    """A data frame as CSV. Texts are made harmless for a terminal. One that a spreadsheet would
    take for a formula gets an apostrophe before it, which spreadsheets do not show.
    """
    frame = frame.map(_csv_cell).rename(columns=_csv_cell)
    return str(frame.to_csv(index=False)).rstrip("\n")


def _csv_cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if text.startswith(_FORMULA) and not _NUMBER.fullmatch(text) else text


_NARROWEST = 6
"""Characters of a column with its space: in less, a table loses columns. A narrower terminal breaks
the lines.
"""
_FORMULA = ("=", "+", "-", "@", "\t")
_NUMBER = re.compile(r"[+-]?[0-9.]+(?:e[+-]?[0-9]+)?")
_SUPERSCRIPT = str.maketrans("abcdefghijklmnoprstuvwxyz-+†‡", "ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻ⁻⁺†‡")


def _terminal(table: Table, width: int | None, color: bool, titled: bool) -> str:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    if not table.rows:
        return printable("\n".join([f"{table.title}: nothing to show", *table.notes]))
    grid = RichTable(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for column in table.columns:
        grid.add_column(
            Text(printable(column.heading)),
            justify="right" if column.numeric else "left",
            overflow="fold",
        )
    for place, row in enumerate(table.rows):
        # The style belongs to the text: as a style of the cell it would underline the padding, too.
        drawn = [
            Text.assemble(
                (_plain(cell, color), _style(cell) if color else ""),
                (_below(cell), "dim" if color else ""),
            )
            for cell in row
        ]
        grid.add_row(*drawn, style="italic dim" if place in table.quoted and color else "")
    out = io.StringIO()
    width = width or 1000
    wide = max(width, _NARROWEST * len(table.columns))
    console = Console(file=out, width=wide, force_terminal=color, highlight=False, markup=False)
    console.print(grid)
    ranked = any(cell.best for row in table.rows for cell in row)
    for note in (*(("* best, _ second.",) if ranked and not color else ()), *table.notes):
        console.print(Text(printable(note), style="dim" if color else ""), width=width)
    text = "\n".join(line.rstrip() for line in out.getvalue().split("\n")).strip("\n")
    return f"{printable(table.title)}\n\n{text}" if titled else text


def _below(cell: Cell) -> str:
    return f"\n{printable(cell.below)}" if cell.below else ""


def _style(cell: Cell) -> str:
    return "bold" if cell.best else "underline" if cell.second else ""


def _plain(cell: Cell, color: bool) -> str:
    mark = "" if color else "*" * cell.best or "_" * cell.second
    return f"{mark}{printable(cell.text)}{cell.letters.translate(_SUPERSCRIPT)}"
