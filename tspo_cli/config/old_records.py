"""Configurations that earlier versions wrote into run directories: read as today's keys.

An experiment file that a person writes is never translated; there an old key is an error that
names the new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tspo_cli.config.tables import Table, flatten, merge, nest
from tspo_cli.credit.algorithms.old_keys import OLD_KEYS
from tspo_cli.errors import InvalidInputError
from tspo_cli.runs import read_json


def is_old_record(table: Mapping[str, Any]) -> bool:
    """True for a resolved configuration of an earlier version: it has every old key."""
    return flatten(table).keys() >= OLD_KEYS.keys()


def current_keys(table: Mapping[str, Any]) -> Table:
    """`table` with every old key moved to where it is today."""
    flat = flatten({"credit": table.get("credit")})
    moved = {new: flat[old] for old, new in OLD_KEYS.items() if old in flat}
    if not moved:
        return dict(table)
    old_leaves = {old.rpartition(".")[2] for old in OLD_KEYS}
    credit = {key: value for key, value in table["credit"].items() if key not in old_leaves}
    return merge({**table, "credit": credit}, nest(moved))


def read_record(path: Path) -> Table:
    """The configuration in a JSON file that a run or an evaluation left, with today's keys.

    Raises:
        MissingResourceError: no such file. InvalidInputError: it holds no JSON object.
    """
    table = read_json(path)
    if not isinstance(table, dict):
        raise InvalidInputError(f"{path}: expected a JSON object, found {type(table).__name__}")
    return current_keys(table)
