"""What a table is, whatever it is printed as."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Format(StrEnum):
    """Forms of a table."""

    table = "table"
    md = "md"
    csv = "csv"
    latex = "latex"
    json = "json"


@dataclass(frozen=True, slots=True)
class Cell:
    """Text for people. `best` is set in bold, `second` underlined; `letters` are superscript;
    `hint` explains it.

    `below` is a second, smaller line: the interval of a score.
    """

    text: str
    best: bool = False
    second: bool = False
    letters: str = ""
    hint: str = ""
    below: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """A heading, and whether what stands below it are numbers."""

    heading: str
    numeric: bool = True


@dataclass(frozen=True, slots=True)
class Table:
    """One table for people, and the same as plain `records` for machines (CSV and JSON).

    `quoted` are the places of rows that were not measured here: they are set apart in every form.
    `fields` are the columns of an empty CSV; `flat` are records without nesting, where `records`
    have some. `commands` made the numbers: LaTeX keeps them as comments beside the table.
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
    commands: tuple[str, ...] = ()


def cells(texts: Sequence[str]) -> tuple[Cell, ...]:
    """A row without any emphasis."""
    return tuple(map(Cell, texts))


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


def bounds(low: float | None, high: float | None, form: str = "{:.1f}", factor: float = 100) -> str:
    """An interval as `[low, high]`, empty where there is none."""
    return (
        ""
        if low is None or high is None
        else f"[{form.format(low * factor)}, {form.format(high * factor)}]"
    )
