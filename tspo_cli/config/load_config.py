"""Compose experiment files and `--set a.b=c` into a checked `Config`, and write it to files."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import ValidationError

from tspo_cli.config.algorithm_options import (
    KeyProblem,
    algorithm_defaults,
    filled_user_options,
)
from tspo_cli.config.keys import all_keys, all_sections, near_keys, unknown
from tspo_cli.config.layers import Layer, apply_settings, compose, shortened_setting
from tspo_cli.config.old_records import read_record
from tspo_cli.config.recipes import list_recipes, recipe_path, source_path
from tspo_cli.config.schema import Config
from tspo_cli.config.sections.agent_defaults import agent_defaults
from tspo_cli.config.sections.prompt_value import with_prompt_text
from tspo_cli.config.sources import source_layers
from tspo_cli.config.tables import Table, flatten, merge
from tspo_cli.disk import atomic_write_text
from tspo_cli.errors import InvalidInputError
from tspo_cli.not_a_run import require_run
from tspo_cli.record_digests import changing
from tspo_cli.runs import CONFIG_NAME, CONFIG_TEXT_NAME, write_json
from tspo_cli.text.secrets import file_mode

__all__ = [
    "config_hash",
    "list_recipes",
    "load_config",
    "read_resolved",
    "recipe_path",
    "source_path",
    "to_toml",
    "write_resolved",
]

_ABSENT = object()

_MOST = 2**53
"""Integers are below it: the same in every JSON reader, and no library has too few bits."""


def load_config(
    sources: Sequence[str | Path], settings: Sequence[str] = (), *, cell: Layer | None = None
) -> Config:
    """Compose sources from left to right, then the settings of a sweep's `cell`, then `a.b=c`
    settings, and check the result against the schema.

    A source is a path, a recipe's name (`tiny/tspo`), or a cell of a sweep file
    (`hard.sweep.toml::tspo/a0`). A file may extend another one: `extends = "base.toml"`, which
    is relative to itself, or a recipe, or a list of these. Paths inside stay as they are written,
    but the text of a prompt template takes the place of its path. Tables merge; lists are replaced.
    The defaults of the algorithm fill the keys that nothing sets, and so does the `tspo_agent.json`
    of the model that the experiment starts from.

    Raises:
        InvalidInputError: bad TOML, an unknown key, or a wrong value; one line that names the key
        and the file. MissingResourceError: a source does not exist. UsageError: a setting has no
        `=`.
    """
    layers = [layer for source in sources for layer in source_layers(source)]
    layers += [cell] if cell is not None else []
    table = apply_settings(compose(layers), settings)
    layers.append(Layer("--set", apply_settings({}, settings)))
    name, defaults = algorithm_defaults(table)
    layers.insert(0, Layer(f"defaults of {name}", defaults))
    file, agent = agent_defaults(table)
    layers.insert(0, Layer(file, agent))
    config = with_prompt_text(_validate(merge(merge(agent, defaults), table), layers))
    return _with_user_options(config, layers)


def to_toml(config: Config) -> str:
    """The whole configuration as TOML that `load_config` reads back to an equal one."""
    return tomli_w.dumps(config.section_dict())


def config_hash(config: Config) -> str:
    """12 hex digits that are equal for equal configurations."""
    canonical = json.dumps(config.section_dict(), sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(canonical.encode("utf-8")).hexdigest()[:12]


def write_resolved(config: Config, run_dir: Path) -> None:
    """Write `config.resolved.json`, then `config.toml`. The first makes the folder a run directory:
    the second alone may be the user's own experiment. Only their owner can read them where a URL
    has a secret.
    """
    toml, record = run_dir / CONFIG_TEXT_NAME, run_dir / CONFIG_NAME
    text = to_toml(config)
    with changing(toml, record):
        write_json(record, config.section_dict(), file_mode(text))
        atomic_write_text(toml, text, file_mode(text))


def read_resolved(run_dir: Path) -> Config:
    """The configuration that a run was started with.

    Raises:
        MissingResourceError: the folder is no run directory.
        InvalidInputError: the file was changed to something that the schema refuses.
    """
    require_run(run_dir)
    path = run_dir / CONFIG_NAME
    table = read_record(path)
    return with_prompt_text(_validate(table, [Layer(str(path), table)]))


def _validate(table: Table, layers: Sequence[Layer]) -> Config:
    """Check `table` against the schema.

    As strict JSON the string "5" is not an integer and `true` is not 1, but a list may be a tuple.
    """
    problem = next(_refused(table), None)
    if problem is None:
        try:
            return Config.model_validate_json(json.dumps(table, default=str), strict=True)
        except ValidationError as error:
            problem = _wrong(_key_at(error.errors()[0]["loc"]), table)
    name, message = problem
    raise InvalidInputError(f"{shortened_setting(name)}: {message}{_origin(name, layers)}")


def _with_user_options(config: Config, layers: Sequence[Layer]) -> Config:
    """`config` with the options of the user's own algorithm, checked and complete."""
    try:
        options = filled_user_options(config.credit)
    except KeyProblem as problem:
        raise InvalidInputError(f"{problem}{_origin(problem.key, layers)}") from None
    if options == config.credit.options:
        return config
    credit = config.credit.model_copy(update={"options": options})
    return config.model_copy(update={"credit": credit})


def _refused(table: Table, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Unknown names, misplaced tables, NUL, nan, inf, huge integers, as (dotted name, message)."""
    for part, value in table.items():
        name = f"{prefix}{part}"
        if name in all_keys():
            items = value if isinstance(value, list) else [value]
            if not all(math.isfinite(item) for item in items if isinstance(item, float)):
                yield name, f"expected {all_keys()[name].expects} and finite, got {_show(value)}"
            if any("\0" in item for item in items if isinstance(item, str)):
                yield name, f"expected text without NUL, got {_show(value)}"
            if any(type(item) is int and item >= _MOST for item in items):
                yield name, f"expected {all_keys()[name].expects} below 2^53, got {_show(value)}"
        elif name not in all_sections():
            inner = flatten(value, f"{name}.") if isinstance(value, dict) else {}
            misplaced = [] if near_keys(name) else [key for key in inner if near_keys(key)]
            for key in misplaced or [name]:
                yield key, unknown(key)
        elif isinstance(value, dict):
            yield from _refused(value, f"{name}.")
        else:
            yield name, f"expected a table, got {_show(value)}"


def _key_at(location: Sequence[int | str]) -> str:
    """The key that a location in the configuration belongs to: its longest prefix that is a key."""
    names = [".".join(map(str, location[:depth])) for depth in range(len(location), 0, -1)]
    return next(name for name in names if name in all_keys())


def _wrong(name: str, table: Table) -> tuple[str, str]:
    value: Any = table
    for part in name.split("."):
        value = value[part]
    expects = all_keys()[name].expects
    is_one = isinstance(value, str) and expects == "a list of strings"
    cure = f"; write {_as_list(value)}" if is_one else ""
    return name, f"expected {expects}, got {_show(value)}{cure}"


def _as_list(value: str) -> str:
    """A text as the list that was meant; a list without its quotes, which a shell took, also as one
    that a shell leaves as it is.
    """
    if not (value.startswith("[") and value.endswith("]")):
        return f"[{_show(value)}]"
    items = [item.strip().strip("\"'") for item in value[1:-1].split(",")]
    meant = _show([item for item in items if item])
    return f"{meant}, in a shell '{meant}'"


def _show(value: Any) -> str:
    if isinstance(value, dict):
        return "a table"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _origin(name: str, layers: Sequence[Layer]) -> str:
    """Which layer sets `name` last: ` (file:line)` or ` (--set)`."""
    for layer in reversed(layers):
        inner: Any = layer.table
        for part in name.split("."):
            inner = inner.get(part, _ABSENT) if isinstance(inner, dict) else _ABSENT
        if inner is not _ABSENT:
            line = _line_of(name, layer.text)
            return f" ({layer.label}:{line})" if line else f" ({layer.label})"
    return ""


def _line_of(name: str, text: str) -> int | None:
    """The line that sets `name` in TOML `text`, as `[a]` and `b = ...` or as `a.b = ...`."""
    table = ""
    for number, line in enumerate(text.split("\n"), start=1):
        if header := re.match(r"\s*\[+([\w.-]+)\]", line):
            table = f"{header.group(1)}."
            if header.group(1) == name:
                return number
        elif (key := re.match(r"\s*([\w.-]+)\s*=", line)) and f"{table}{key.group(1)}" == name:
            return number
    return None
