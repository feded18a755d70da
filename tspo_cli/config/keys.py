"""Every key of an experiment file, by its dotted name: what it expects, its default, its
meaning.
"""

from __future__ import annotations

import json
import types
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from tspo_cli.config.schema import Config
from tspo_cli.credit.algorithms.old_keys import OLD_KEYS

_TITLE = "# Configuration ([U1 to U11](algorithms.md), [composing files](experiments.md))"
_MOST_NEAR = 4
_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
_SINGULAR = {int: "an integer", float: "a number", str: "a string", bool: "true or false"}
_PLURAL = {int: "integers", float: "numbers", str: "strings", bool: "true or false values"}
_ELSEWHERE = {
    "max_turns": "rollout.max_searches",
    "max_obs_length": "rollout.max_observation_tokens",
    "max_start_length": "rollout.max_prompt_tokens",
    "max_prompt_length": "rollout.max_prompt_tokens",
    "max_response_length": "rollout.max_new_tokens",
    "max_completion_length": "rollout.max_new_tokens",
    "n_agent": "rollout.group_size",
    "num_generations": "rollout.group_size",
    "learning_rate": "optimizer.lr",
    "neftune_noise_alpha": "loss.embedding_noise",
}
"""What Search-R1, verl and TRL call a key."""


@dataclass(frozen=True)
class Key:
    """One key: `name` is dotted (`rollout.group_size`), `expects` a phrase (`an integer >= 1`)."""

    name: str
    expects: str
    default: Any
    description: str


@cache
def all_keys() -> dict[str, Key]:
    """All keys in the order of the schema, by dotted name."""
    return keys_of(Config)


def keys_of(model: type[BaseModel], prefix: str = "") -> dict[str, Key]:
    """The keys of a section, those of its inner tables included, by dotted name after `prefix`."""
    return {key.name: key for key in _walk(model, prefix)}


@cache
def all_sections() -> list[str]:
    """Names of the tables, such as `rollout`."""
    return list(dict.fromkeys(name.rpartition(".")[0] for name in all_keys() if "." in name))


def unknown(name: str) -> str:
    """The message for the unknown key `name`: its new name if it has moved, else `near_keys`."""
    if name in OLD_KEYS:
        return f"this key has moved; write {OLD_KEYS[name]}"
    if near := near_keys(name):
        return f"unknown key; did you mean {' or '.join(near)}?"
    return "unknown key; `tspo config schema` lists all keys"


def near_keys(name: str) -> list[str]:
    """Keys and sections that an unknown `name` may stand for, at most `_MOST_NEAR`: those that end
    in it, or in its last part, else the closest.
    """
    names = [*all_keys(), *all_sections()]
    leaf = name.rpartition(".")[2]
    if leaf in _ELSEWHERE:
        return [_ELSEWHERE[leaf]]
    by_leaf: dict[str, list[str]] = {}
    for known in names:
        by_leaf.setdefault(known.rpartition(".")[2], []).append(known)
    near = [known for known in names if known.endswith(f".{name}")] or by_leaf.get(leaf, [])
    near = near or get_close_matches(name, names, n=1, cutoff=0.75)
    for match in [] if near else get_close_matches(leaf, by_leaf, n=1, cutoff=0.75):
        near = by_leaf[match]
    return near[:_MOST_NEAR]


def _walk(model: type[BaseModel], prefix: str) -> Iterator[Key]:
    inner: dict[str, type[BaseModel]] = {}
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            inner[name] = annotation
        else:
            default = field.get_default(call_default_factory=True)
            yield Key(f"{prefix}{name}", expects(field), default, field.description or "")
    # Inner tables come last, as TOML has them.
    for name, table in inner.items():
        yield from _walk(table, f"{prefix}{name}.")


def expects(field: FieldInfo) -> str:
    """What a field expects, as a phrase for an error: `an integer >= 1`."""
    limits = [
        f"{sign} {getattr(limit, bound):g}"
        for limit in field.metadata
        for bound, sign in _BOUNDS.items()
        if hasattr(limit, bound)
    ]
    phrase = _phrase(field.annotation)
    return f"{phrase} {' and '.join(limits)}" if limits else phrase


def _phrase(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "one of " + ", ".join(str(choice) or '""' for choice in inner)
    if origin is Annotated:
        return str(inner[-1])
    if origin is list and get_origin(inner[0]) is Literal:
        return f"a list of {', '.join(map(str, get_args(inner[0])))}"
    if origin is list:
        return f"a list of {_PLURAL.get(inner[0], 'values')}"
    if origin is tuple:
        return f"a list of {len(inner)} {_PLURAL.get(inner[0], 'values')}"
    if origin in (Union, types.UnionType):
        return " or ".join(_phrase(choice) for choice in inner if choice is not type(None))
    if origin is dict:
        return "a table"
    return _SINGULAR.get(annotation, "a value of another type")


def keys_page() -> str:
    """All keys as Markdown, as docs/configuration.md: one table for each top-level section, and
    first one of the keys that are in none.
    """
    tables: dict[str, list[str]] = {}
    for key in all_keys().values():
        section, _, _ = key.name.rpartition(".")
        tables.setdefault(section.partition(".")[0], []).append(_row(key))
    parts = []
    for section, rows in tables.items():
        title = f"## `[{section}]`" if section else _TITLE
        head = ["| key | default | expects | meaning |", "|---|---|---|---|"]
        parts.append("\n".join([title, *head, *rows]) + "\n")
    return "\n".join(parts)


def _row(key: Key) -> str:
    default = json.dumps(key.default, ensure_ascii=False)
    cells = (f"`{key.name}`", f"`{default}`", key.expects, key.description)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
