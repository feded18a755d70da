"""The layers of a configuration: experiment files with what they extend, and `--set a.b=c`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from tspo_cli.config.old_records import current_keys, is_old_record
from tspo_cli.config.recipes import recipe_path
from tspo_cli.config.tables import Table, merge
from tspo_cli.errors import InvalidInputError, MissingResourceError, UsageError
from tspo_cli.plain_files import is_plain, read_plain_text
from tspo_cli.text.toml_text import MOST_PARTS, parse_toml

_LONGEST_QUOTED = 120


@dataclass(frozen=True)
class Layer:
    """One file, cell or list of settings, read but not yet composed.

    `label` says in messages where a value comes from; `text` is the file's text, for line numbers.
    """

    label: str
    table: Table
    text: str = ""


def read_layers(path: Path, above: tuple[Path, ...] = ()) -> Iterator[Layer]:
    """The files that `path` extends, farthest first, then `path` itself. What it extends is a file,
    relative to `path`, or the name of a recipe.

    `above` are the files that extend `path`.

    Raises:
        InvalidInputError: bad TOML, a malformed `extends`, or a file that extends itself.
        MissingResourceError: what it extends does not exist.
    """
    if path.resolve() in above:
        raise InvalidInputError(
            f"{path}: extends itself through {' > '.join(p.name for p in above)}"
        )
    layer = _read_toml(path)
    bases = layer.table.pop("extends", [])
    bases = [bases] if isinstance(bases, str) else bases
    if not isinstance(bases, list) or not all(isinstance(base, str) for base in bases):
        raise InvalidInputError(f"{path}: extends: expected a file name or a list of file names")
    for base in bases:
        yield from read_layers(_extended(path, base), (*above, path.resolve()))
    yield layer


def _extended(path: Path, base: str) -> Path:
    beside = path.parent / base
    if is_plain(beside):
        return beside
    try:
        return recipe_path(base)
    except MissingResourceError as error:
        raise MissingResourceError(
            f"{path}: extends {error} (files are looked up in {path.parent})"
        ) from error


def compose(layers: Iterable[Layer]) -> Table:
    """The keys of all layers, merged in their order."""
    return reduce(merge, (layer.table for layer in layers), {})


def apply_settings(table: Table, settings: Sequence[str]) -> Table:
    """A copy of `table` with every `a.b=value` set. A value that is no TOML is a string, with its
    spaces; in `a.b = value` it begins after those of the equals sign.

    Raises:
        UsageError: a setting has no `=` or an empty key.
        InvalidInputError: a key goes through something that is not a table, or no UTF-8 text.
    """
    table = deepcopy(table)
    for setting in settings:
        shown = shortened_setting(setting)
        if any("\ud800" <= char <= "\udfff" for char in setting):  # bytes of the command line
            raise InvalidInputError(f"--set {shown}: expected UTF-8 text")
        key, equals, value = setting.partition("=")
        *parents, leaf = key.strip().split(".")
        if not equals or not all([*parents, leaf]):
            raise UsageError(f"--set {shown}: expected KEY=VALUE, such as train.steps=10")
        if len(parents) >= MOST_PARTS:
            raise InvalidInputError(f"--set: expected a key, got one of {len(parents) + 1} parts")
        inner = table
        for depth, name in enumerate(parents, start=1):
            inner = inner.setdefault(name, {})
            if not isinstance(inner, dict):
                raise InvalidInputError(
                    f"--set {shown}: {'.'.join(parents[:depth])} is a value, not a table"
                )
        inner[leaf] = _parse_value(value.lstrip() if key[-1].isspace() else value)
    return table


def shortened_setting(text: str) -> str:
    """A setting, or the name of a key, as an error quotes it."""
    return text if len(text) <= _LONGEST_QUOTED else f"{text[: _LONGEST_QUOTED - 3]}..."


def _read_toml(path: Path) -> Layer:
    text = read_plain_text(path)
    table = parse_toml(text, str(path))
    return Layer(str(path), current_keys(table) if is_old_record(table) else table, text)


def _parse_value(text: str) -> Any:
    try:
        parsed = parse_toml(f"value = {text.strip()}", "--set")
    except InvalidInputError:
        return text
    return parsed["value"] if list(parsed) == ["value"] else text
