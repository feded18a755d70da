"""Tables as text: for the terminal, Markdown, CSV, LaTeX (booktabs) and JSON."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len

from tspo_cli.errors import UsageError
from tspo_cli.reporting.rendering.markup import latex, markdown
from tspo_cli.reporting.rendering.table import Cell, Format, Table
from tspo_cli.text.printable import printable, printable_values
from tspo_cli.text.strict_json import json_text

if TYPE_CHECKING:
    from rich.table import Table as RichTable


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


_GAP = 3
"""Spaces between two columns."""
_READABLE = 20
"""Letters of a text in a line, where a column is narrow."""
_FORMULA = ("=", "+", "-", "@", "\t")
_NUMBER = re.compile(r"[+-]?[0-9.]+(?:e[+-]?[0-9]+)?")
_SUPERSCRIPT = str.maketrans("abcdefghijklmnoprstuvwxyz-+†‡", "ᵃᵇᶜᵈᵉᶠᵍʰⁱʲᵏˡᵐⁿᵒᵖʳˢᵗᵘᵛʷˣʸᶻ⁻⁺†‡")


def _terminal(table: Table, width: int | None, color: bool, titled: bool) -> str:
    from rich.console import Console
    from rich.text import Text

    if not table.rows:
        return printable("\n".join([f"{table.title}: nothing to show", *table.notes]))
    out = io.StringIO()
    width = width or 1000
    console = Console(file=out, width=width, force_terminal=color, highlight=False, markup=False)
    for places in _parts(table, width):
        widths = _widths(table, places, width)
        # No narrower than its columns: a table loses what it has no room for.
        console.width = max(width, sum(widths) + _GAP * len(widths) + 1)
        console.print(_grid(table, places, widths, color))
    ranked = any(cell.best for row in table.rows for cell in row)
    for note in (*(("* best, _ second.",) if ranked and not color else ()), *table.notes):
        console.print(Text(printable(note), style="dim" if color else ""), width=width)
    text = "\n".join(line.rstrip() for line in out.getvalue().split("\n")).strip("\n")
    return f"{printable(table.title)}\n\n{text}" if titled else text


def _parts(table: Table, width: int) -> list[list[int]]:
    """The places of the columns that are printed beside each other, so that no number is broken.
    Where all do not fit, those that tell the rows apart are repeated in each part.
    """
    needs = [_need(table, place) + _GAP for place in range(len(table.columns))]
    if sum(needs) < width:
        return [list(range(len(needs)))]
    keys = _keys(table)
    room = width - 1 - sum(needs[place] for place in keys)
    parts: list[list[int]] = [[]]
    left = room
    for place in (place for place in range(len(needs)) if place not in keys):
        if needs[place] > left and parts[-1]:
            parts.append([])
            left = room
        parts[-1].append(place)
        left -= needs[place]
    return [sorted([*keys, *part]) for part in parts]


def _need(table: Table, place: int) -> int:
    """The narrowest a column may be: numbers stay whole, text is broken after some letters."""
    column = table.columns[place]
    cells = [line for row in table.rows for line in (_plain(row[place], False), row[place].below)]
    words = max(map(cell_len, column.heading.split()), default=0)
    longest = max(words, *map(cell_len, cells))
    return longest if column.numeric else min(longest, _READABLE)


def _widths(table: Table, places: Sequence[int], width: int) -> list[int]:
    """The widths of columns that stand beside each other: what they need, and more where there is
    room.
    """
    widths = [_need(table, place) for place in places]
    room = max(0, width - 1 - sum(widths) - _GAP * len(widths))
    for index, place in enumerate(places):
        cells = [_plain(row[place], False) for row in table.rows]
        wanted = max(map(cell_len, [table.columns[place].heading, *cells]))
        more = max(0, min(room, wanted - widths[index]))
        widths[index] += more
        room -= more
    return widths


def _keys(table: Table) -> list[int]:
    """The columns that tell the rows apart: the first one, with another if one helps. A single row
    needs none.
    """
    if len(table.rows) == 1:
        return []
    others = range(1, len(table.columns))
    for keys in ([0], *([0, place] for place in others)):
        if len({tuple(row[place].text for place in keys) for row in table.rows}) == len(table.rows):
            return keys
    return [0]


def _grid(table: Table, places: Sequence[int], widths: Sequence[int], color: bool) -> RichTable:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table as RichTable
    from rich.text import Text

    grid = RichTable(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for place, width in zip(places, widths, strict=True):
        column = table.columns[place]
        grid.add_column(
            Text(printable(column.heading)),
            justify="right" if column.numeric else "left",
            overflow="fold",
            width=width,
        )
    for place, row in enumerate(table.rows):
        # The style belongs to the text: as a style of the cell it would underline the padding, too.
        drawn = [
            Text.assemble(
                (_plain(cell, color), _style(cell) if color else ""),
                (_below(cell), "dim" if color else ""),
            )
            for cell in (row[column] for column in places)
        ]
        grid.add_row(*drawn, style="italic dim" if place in table.quoted and color else "")
    return grid


def _below(cell: Cell) -> str:
    return f"\n{printable(cell.below)}" if cell.below else ""


def _style(cell: Cell) -> str:
    return "bold" if cell.best else "underline" if cell.second else ""


def _plain(cell: Cell, color: bool) -> str:
    mark = "" if color else "*" * cell.best or "_" * cell.second
    return f"{mark}{printable(cell.text)}{cell.letters.translate(_SUPERSCRIPT)}"
