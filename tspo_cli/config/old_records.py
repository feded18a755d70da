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
from tspo_cli.record_forms import CONFIG, checked
from tspo_cli.runs import read_json

# What prompts and observations were before each of these keys existed.
_BEFORE = {"question_mark": "never", "titles": "plain", "after_eos": "keep"}
# How engine and learner were compared before these keys existed.
_LOSS_BEFORE = {"old_logprobs": "engine", "mismatch": "none"}
# How the engine got adapters before this key existed.
_LORA_BEFORE = {"handover": "merged"}
_STOPS_BEFORE: Table = {**_BEFORE, "stop_tokens": []}
# Keys that a resolved configuration always had. Nobody writes all of them by hand.
_RESOLVED = {"prompt", "system", "chat_template", "trajectory_deadline", "max_refills"}


def is_old_record(table: Mapping[str, Any]) -> bool:
    """True for a resolved configuration of an earlier version: it has every old key, or a complete
    [rollout] without the keys of today.
    """
    rollout = table.get("rollout")
    return flatten(table).keys() >= OLD_KEYS.keys() or (
        isinstance(rollout, dict)
        and rollout.keys() >= _RESOLVED
        and not rollout.keys() >= _BEFORE.keys()
    )


def rollout_as_recorded(rollout: Mapping[str, Any]) -> Table:
    """A recorded [rollout] with the values that mean what an earlier version did. The style `short`
    has not changed.
    """
    before = dict.fromkeys(_BEFORE, "auto") if rollout.get("prompt") == "short" else _STOPS_BEFORE
    return {**before, **rollout}


def current_keys(table: Mapping[str, Any]) -> Table:
    """`table` with every old key moved to where it is today, and what the earlier version did
    written out.
    """
    if isinstance(table.get("rollout"), dict):
        table = {**table, "rollout": rollout_as_recorded(table["rollout"])}
    if isinstance(table.get("loss"), dict):
        table = {**table, "loss": {**_LOSS_BEFORE, **table["loss"]}}
    if isinstance(table.get("lora"), dict):
        table = {**table, "lora": {**_LORA_BEFORE, **table["lora"]}}
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
        MissingResourceError: no such file. InvalidInputError: it holds no configuration.
    """
    return current_keys(checked(CONFIG, read_json(path), str(path)))
