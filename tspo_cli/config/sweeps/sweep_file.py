"""A sweep file: arms x axes x option grid x seeds. Every cell is an ordinary experiment.

    base = "base.toml"                  # experiment files or recipes that every cell starts from
    seeds = [0, 1, 2]
    baseline = "grpo"                   # the arm that others are compared with

    [settings]                          # for every cell, as in an experiment file
    train.steps = 40

    [arms.grpo]                         # what is compared; at least one arm
    credit.algorithm = "grpo"
    [arms.tspo]
    credit.algorithm = "tspo"

    [axes.start.a]                      # optional: worlds, warm starts, anything with a name
    model.path = "runs/starts/a/model"
    [axes.start.b]
    model.path = "runs/starts/b/model"
    seeds = [3, 4]                      # an arm or an axis value may have its own seeds; where
                                        # both have some, a cell has those in both lists

    [grid]                              # optional: every combination of these values
    "optimizer.lr" = [1e-4, 2e-4]

Later layers win over earlier ones: base, [settings], axes, arm, [grid], `--set`.

A variant is a cell without its seed. It is named by its arm, axis values and grid values:
`tspo/a/lr=0.0002`. `tspo train FILE::tspo/a/lr=0.0002 --set seed=1` trains one cell.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from tspo_cli.config.layers import Layer, apply_settings, read_layers, shortened_setting
from tspo_cli.config.recipes import source_path
from tspo_cli.config.tables import Table
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.plain_files import is_plain, read_plain_text, same_file_name, why_missing
from tspo_cli.text.toml_text import parse_toml

SWEEP_NAME = "sweep.json"
_KEYS = ("base", "seeds", "baseline", "settings", "arms", "axes", "grid")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
_LONGEST_NAME = 100
MOST_CELLS = 10_000
"""Cells of a sweep, which `tspo sweep` reads and checks before the first one trains."""
_OURS = (SWEEP_NAME, "digests.jsonl", "configs", "logs")
"""What the directory of a sweep has beside the folders of its arms."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A cell without its seed: one arm at one value of every axis and grid key.

    `values` holds the value of every axis and grid key as text. `settings` are `a.b=value`, later
    ones win. `seeds` are the seeds that the sweep trains it with.
    """

    arm: str
    values: Mapping[str, str]
    settings: tuple[str, ...]
    seeds: tuple[int, ...]

    @property
    def name(self) -> str:
        """Arm and values as a path, such as `tspo/a/lr=0.0002`.

        An axis gives only its value, a grid key its last part and its value.
        """
        parts = [
            f"{key.rpartition('.')[2]}={value}" if "." in key else value
            for key, value in self.values.items()
        ]
        return "/".join((self.arm, *parts))


@dataclass(frozen=True, slots=True)
class SweepFile:
    """A sweep file as it was read. Its settings are not checked against the schema yet."""

    path: Path
    bases: tuple[Path, ...]
    baseline: str | None
    axes: tuple[str, ...]
    grid: tuple[str, ...]
    variants: tuple[Variant, ...]


def read_sweep_file(path: Path) -> SweepFile:
    """Read the sweep file `path` and list its variants.

    Raises:
        InvalidInputError: the file is malformed.
        MissingResourceError: the file or one of its bases does not exist.
    """
    table = _read(path)
    arms = _named_tables(path, "arms", table.get("arms"))
    axes = {
        name: _named_tables(path, f"axes.{name}", values)
        for name, values in _table(path, "axes", table).items()
    }
    grid = _grid(path, _table(path, "grid", table))
    seeds = _seeds(path, "seeds", table.get("seeds", [0]))
    baseline = table.get("baseline")
    if baseline is not None and (not isinstance(baseline, str) or baseline not in arms):
        raise InvalidInputError(
            f"{path}: baseline: expected one of the arms {', '.join(arms)}, got {baseline!r}"
        )
    shared = _table(path, "settings", table)
    _refuse_many(path, len(arms) * math.prod(map(len, [*axes.values(), *grid.values()])))
    variants = []
    for point in itertools.product(*(values.items() for values in axes.values()), *grid.values()):
        values = dict(zip([*axes, *grid], (text for text, _ in point), strict=True))
        on_axes, on_grid = [
            [layer for _, layer in part] for part in (point[: len(axes)], point[len(axes) :])
        ]
        for arm, arm_table in arms.items():
            layers = [shared, *on_axes, arm_table, *on_grid]
            seed_lists = [
                _seeds(path, f"{arm}.seeds", layer["seeds"]) for layer in layers if "seeds" in layer
            ]
            settings = tuple(setting for layer in layers for setting in _settings(layer))
            variants.append(
                Variant(arm, values, settings, tuple(_in_all(seed_lists) if seed_lists else seeds))
            )
    _refuse_many(path, sum(len(variant.seeds) for variant in variants))
    return SweepFile(
        path,
        tuple(_bases(path, table.get("base", []))),
        baseline,
        tuple(axes),
        tuple(grid),
        tuple(variants),
    )


def cell_layers(path: Path, name: str) -> list[Layer]:
    """The layers of a variant or cell of the sweep file `path`: its bases, then its settings.

    `name` is that of a variant (`tspo/a`) or of a cell (`tspo/a/seed3`). A variant with a single
    seed has that seed. Any other variant has the seed of the base.

    Raises:
        InvalidInputError: the file is malformed, or has no such cell; the message lists them.
        MissingResourceError: the file or one of its bases does not exist.
    """
    sweep = read_sweep_file(path)
    variant, seeds = _find(sweep, name)
    settings = [*variant.settings, *(f"seed={seed}" for seed in seeds if len(seeds) == 1)]
    layers = [layer for base in sweep.bases for layer in read_layers(base)]
    return [*layers, Layer(f"{path}::{name}", apply_settings({}, settings))]


def _find(sweep: SweepFile, name: str) -> tuple[Variant, tuple[int, ...]]:
    """The variant of that name with its seeds, or with one seed where `name` has it."""
    by_name = {variant.name: variant for variant in sweep.variants}
    if name in by_name:
        return by_name[name], by_name[name].seeds
    for variant in sweep.variants:
        for seed in variant.seeds:
            if name == f"{variant.name}/seed{seed}":
                return variant, (seed,)
    near = get_close_matches(name, by_name, n=1)
    hint = f" did you mean {near[0]}?" if near else ""
    raise InvalidInputError(
        f"{sweep.path}: {name}: no such cell;{hint} its cells are {', '.join(by_name)}"
    )


def _refuse_many(path: Path, cells: int) -> None:
    if cells > MOST_CELLS:
        raise InvalidInputError(
            f"{path}: expected at most {MOST_CELLS:,} cells (arms x axes x grid x seeds), got "
            f"{cells:,}; shorten the lists, or split the sweep into several files"
        )


def _in_all(seed_lists: Sequence[Sequence[int]]) -> list[int]:
    others = [set(seeds) for seeds in seed_lists[1:]]
    return [seed for seed in seed_lists[0] if all(seed in seeds for seeds in others)]


def _settings(layer: Table, prefix: str = "") -> Iterator[str]:
    """A table as `a.b=value` settings, without the sweep's key `seeds`."""
    for key, value in layer.items():
        if isinstance(value, dict):
            yield from _settings(value, f"{prefix}{key}.")
        elif prefix or key != "seeds":
            yield f"{prefix}{key}={json.dumps(value, default=str)}"


def _read(path: Path) -> Table:
    if not is_plain(path):
        raise MissingResourceError(f"{path}: {why_missing(path, 'no such sweep file')}")
    text = read_plain_text(path)
    table = parse_toml(text, str(path))
    for key in table:
        if key not in _KEYS:
            near = get_close_matches(key, _KEYS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"a sweep has {', '.join(_KEYS)}"
            raise InvalidInputError(f"{path}: {shortened_setting(key)}: unknown key; {hint}")
    return table


def _table(path: Path, name: str, table: Table) -> Table:
    value = table.get(name, {})
    if not isinstance(value, dict):
        raise InvalidInputError(f"{path}: {name}: expected a table")
    return value


def _named_tables(path: Path, section: str, value: Any) -> dict[str, Table]:
    """Tables of settings by name. A name becomes part of a path."""
    if (
        not isinstance(value, dict)
        or not value
        or not all(isinstance(table, dict) for table in value.values())
    ):
        raise InvalidInputError(f"{path}: {section}: expected tables such as [{section}.NAME]")
    for name in value:
        if not _NAME.fullmatch(name):
            raise InvalidInputError(
                f"{path}: {section}.{name}: expected a name of letters, digits and _.+-"
            )
        if len(name) > _LONGEST_NAME:
            raise InvalidInputError(
                f"{path}: {section}.{name[:20]}...: expected at most {_LONGEST_NAME} characters"
            )
        if section == "arms" and same_file_name(name) in _OURS:
            raise InvalidInputError(
                f"{path}: arms.{name}: is a name in the directory of every sweep; choose another"
            )
    return value


def _grid(path: Path, table: Table) -> dict[str, list[tuple[str, Table]]]:
    """Every key with its values, each as (text for the path, settings)."""
    grid = {}
    for key, values in table.items():
        if not isinstance(values, list) or not values:
            raise InvalidInputError(
                f'{path}: grid: expected lines such as "optimizer.lr" = [1e-4, 2e-4], got {key!r}'
            )
        if "." not in key:
            raise InvalidInputError(
                f'{path}: grid.{key}: expected a quoted key with its section, such as "train.steps"'
            )
        section, leaf = key.rsplit(".", 1)
        grid[key] = [(_path_text(value), {section: {leaf: value}}) for value in values]
    return grid


def _path_text(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return re.sub(r"[^A-Za-z0-9_.+-]+", "_", text)


def _seeds(path: Path, name: str, value: Any) -> list[int]:
    if not isinstance(value, list) or not all(
        isinstance(seed, int) and seed >= 0 for seed in value
    ):
        got = shortened_setting(repr(value))
        raise InvalidInputError(f"{path}: {name}: expected a list of integers >= 0, got {got}")
    return value


def _bases(path: Path, value: Any) -> list[Path]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InvalidInputError(
            f"{path}: base: expected the name of an experiment file, or a list of them"
        )
    return [
        path.parent / name if (path.parent / name).is_file() else source_path(name)
        for name in names
    ]
