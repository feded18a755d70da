"""Nested tables, as TOML and JSON files hold them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Table = dict[str, Any]


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> Table:
    """`above` over `below`: tables merge, any other value of `above` replaces the one below."""
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        both_tables = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = merge(old, value) if both_tables else value  # type: ignore[arg-type]
    return merged


def flatten(table: Mapping[str, Any], prefix: str = "") -> Table:
    """`{"train": {"steps": 100}}` as `{"train.steps": 100}`. An empty table has no entry."""
    flat: Table = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def nest(flat: Mapping[str, Any]) -> Table:
    """The inverse of `flatten`: `{"train.steps": 100}` as `{"train": {"steps": 100}}`."""
    table: Table = {}
    for name, value in flat.items():
        *parents, leaf = name.split(".")
        inner = table
        for parent in parents:
            inner = inner.setdefault(parent, {})
        inner[leaf] = value
    return table
