"""A sweep file: arms x axes x option grid x seeds, each cell an ordinary experiment.

    base = "base.toml"                  # experiment files or recipes that every cell starts from
    seeds = [0, 1, 2]
    baseline = "grpo"                   # the arm that others are compared with

    [settings]                          # for every cell, as in an experiment file
    train.steps = 40

    [arms.grpo]                         # what is compared; at least one
    credit.algorithm = "grpo"
    [arms.tspo]
    credit.algorithm = "tspo"

    [axes.start.a]                      # optional: worlds, warm starts, anything with a name
    model.path = "runs/starts/a/model"
    [axes.start.b]
    model.path = "runs/starts/b/model"
    seeds = [3, 4]                      # an arm or a value may keep to its own seeds; where both
                                        # do, those in both lists

    [grid]                              # optional: every combination of these values
    "optimizer.lr" = [1e-4, 2e-4]

Later ones win over earlier ones: base, [settings], axes, arm, [grid], `--set`.
"""

from __future__ import annotations

import itertools
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tspo_cli.config.load_config import load_config, to_toml
from tspo_cli.config.rules import check_complete
from tspo_cli.config.schema import Config
from tspo_cli.errors import InvalidInputError, MissingResourceError, TspoError, UsageError

SWEEP_NAME = "sweep.json"
_KEYS = ("base", "seeds", "baseline", "settings", "arms", "axes", "grid")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")

Table = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One run of a sweep.

    `family` names what all its seeds share and is a path of several parts (`tspo/a/lr=0.0002`),
    `name` also has the seed; `place` holds the value of every axis and grid key (as text), without
    the arm.
    """

    arm: str
    place: Mapping[str, str]
    seed: int
    config: Config

    @property
    def family(self) -> str:
        """Arm and place as a path."""
        return "/".join((self.arm, *_parts(self.place)))

    @property
    def name(self) -> str:
        """Family and seed as a path, unique in the sweep."""
        return f"{self.family}/seed{self.seed}"


@dataclass(frozen=True)
class Sweep:
    """All cells of a sweep, in the order in which they are run: seed by seed, so that a part of it
    compares arms.
    """

    path: Path
    baseline: str | None
    axes: tuple[str, ...]
    grid: tuple[str, ...]
    cells: tuple[Cell, ...]

    def record(self) -> dict[str, Any]:
        """What the sweep's directory says about it, for reports."""
        return {
            "file": str(self.path),
            "baseline": self.baseline,
            "axes": list(self.axes),
            "grid": list(self.grid),
            "cells": [
                {"name": cell.name, "arm": cell.arm, "place": dict(cell.place), "seed": cell.seed}
                for cell in self.cells
            ],
        }

    def only(self, patterns: Sequence[str]) -> tuple[Cell, ...]:
        """The cells whose name fits one of the shell patterns; all without patterns.

        Raises:
            UsageError: a pattern fits no cell.
        """
        for pattern in patterns:
            if not any(fnmatchcase(cell.name, pattern) for cell in self.cells):
                raise UsageError(f"--only {pattern}: fits no cell; `--dry-run` lists their names")
        return tuple(
            cell
            for cell in self.cells
            if not patterns or any(fnmatchcase(cell.name, one) for one in patterns)
        )

    def families(self) -> dict[str, Config]:
        """The configuration of every family, with the first of its seeds."""
        found: dict[str, Config] = {}
        for cell in self.cells:
            found.setdefault(cell.family, cell.config)
        return found


def family_file(folder: Path, family: str) -> Path:
    """Where the experiment file of a family is written."""
    return folder / f"{family.replace('/', '-')}.toml"


def family_toml(config: Config) -> str:
    """The experiment file of a family: everything but the seed, which `--set seed=N` gives."""
    return "".join(
        line for line in to_toml(config).splitlines(keepends=True) if not line.startswith("seed = ")
    )


def read_sweep(path: Path, settings: Sequence[str] = ()) -> Sweep:
    """The cells of the sweep file `path`, each checked as `tspo train` would check it; `settings`
    win in every cell.

    Raises:
        InvalidInputError: a malformed file, or a cell that could not train; the message names the
        cell. MissingResourceError: the file or one of its bases does not exist.
    """
    table = _read(path)
    arms = _named(path, "arms", table.get("arms"))
    axes = {
        name: _named(path, f"axes.{name}", values)
        for name, values in _table(path, "axes", table).items()
    }
    grid = _grid(path, _table(path, "grid", table))
    seeds = _seeds(path, "seeds", table.get("seeds", [0]))
    baseline = table.get("baseline")
    if baseline is not None and baseline not in arms:
        raise InvalidInputError(
            f"{path}: baseline: expected one of the arms {', '.join(arms)}, got {baseline!r}"
        )
    bases = _bases(path, table.get("base", []))
    shared = _table(path, "settings", table)
    cells = []
    for places in itertools.product(*(values.items() for values in axes.values()), *grid.values()):
        named = dict(zip([*axes, *grid], places, strict=True))
        for arm, own in arms.items():
            layers = [
                shared,
                *(named[axis][1] for axis in axes),
                own,
                *(named[key][1] for key in grid),
            ]
            place = {key: named[key][0] for key in named}
            allowed = [
                _seeds(path, f"{arm}.seeds", layer["seeds"]) for layer in layers if "seeds" in layer
            ]
            for seed in _in_all(allowed) if allowed else seeds:
                cells.append(_cell(path, arm, place, seed, bases, layers, settings))
    return Sweep(
        path,
        baseline,
        tuple(axes),
        tuple(grid),
        tuple(sorted(_unique(path, cells), key=lambda cell: cell.seed)),
    )


def _in_all(lists: Sequence[Sequence[int]]) -> list[int]:
    return [seed for seed in lists[0] if all(seed in other for other in lists)]


def _cell(
    path: Path,
    arm: str,
    place: Mapping[str, str],
    seed: int,
    bases: Sequence[Path],
    layers: Sequence[Table],
    settings: Sequence[str],
) -> Cell:
    own = [setting for layer in layers for setting in _settings(layer)]
    try:
        config = load_config(bases, [*own, *settings, f"seed={seed}"])
        check_complete(config)
    except TspoError as error:
        where = "/".join((arm, *_parts(place)))
        raise type(error)(f"{path}: cell {where}: {error}") from None
    return Cell(arm, place, seed, config)


def _settings(layer: Table, prefix: str = "") -> Iterator[str]:
    """A table as `a.b=value` settings; `seeds` is the sweep's own key."""
    for key, value in layer.items():
        if isinstance(value, dict):
            yield from _settings(value, f"{prefix}{key}.")
        elif prefix or key != "seeds":
            yield f"{prefix}{key}={json.dumps(value)}"


def _parts(place: Mapping[str, str]) -> list[str]:
    """Names of axes are left out where their values have names; keys of the grid are shortened to
    their last part.
    """
    return [
        f"{key.rpartition('.')[2]}={value}" if "." in key else value for key, value in place.items()
    ]


def _unique(path: Path, cells: Sequence[Cell]) -> Sequence[Cell]:
    names = [cell.name for cell in cells]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InvalidInputError(
            f"{path}: two cells are called {twice}; give axes or seeds different names"
        )
    if not cells:
        raise InvalidInputError(f"{path}: no cells; an arm or axis keeps to an empty list of seeds")
    return cells


def _read(path: Path) -> Table:
    if not path.is_file():
        raise MissingResourceError(f"{path}: no such sweep file")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path}: not valid TOML: {error}") from None
    for key in table:
        if key not in _KEYS:
            near = get_close_matches(key, _KEYS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"a sweep has {', '.join(_KEYS)}"
            raise InvalidInputError(f"{path}: {key}: unknown key; {hint}")
    return table


def _table(path: Path, name: str, table: Table) -> Table:
    value = table.get(name, {})
    if not isinstance(value, dict):
        raise InvalidInputError(f"{path}: {name}: expected a table")
    return value


def _named(path: Path, name: str, value: Any) -> dict[str, Table]:
    """Names with tables of settings. A name becomes part of a path."""
    if (
        not isinstance(value, dict)
        or not value
        or not all(isinstance(own, dict) for own in value.values())
    ):
        raise InvalidInputError(f"{path}: {name}: expected tables such as [{name}.NAME]")
    for own in value:
        if not _NAME.fullmatch(own):
            raise InvalidInputError(
                f"{path}: {name}.{own}: expected a name of letters, digits and _.+-"
            )
    return value


def _grid(path: Path, table: Table) -> dict[str, list[tuple[str, Table]]]:
    """Every key with its values, each as (text for the path, settings)."""
    out = {}
    for key, values in table.items():
        if not isinstance(values, list) or not values:
            raise InvalidInputError(
                f'{path}: grid: expected lines such as "optimizer.lr" = [1e-4, 2e-4], got {key!r}'
            )
        if "." not in key:
            raise InvalidInputError(
                f'{path}: grid.{key}: expected a quoted key with its section, such as "train.steps"'
            )
        texts = [
            re.sub(
                r"[^A-Za-z0-9_.+-]+", "_", f"{value:g}" if isinstance(value, float) else str(value)
            )
            for value in values
        ]
        section, leaf = key.rsplit(".", 1)
        out[key] = [
            (text, {section: {leaf: value}}) for text, value in zip(texts, values, strict=True)
        ]
    return out


def _seeds(path: Path, name: str, value: Any) -> list[int]:
    if not isinstance(value, list) or not all(isinstance(one, int) and one >= 0 for one in value):
        raise InvalidInputError(f"{path}: {name}: expected a list of integers >= 0, got {value!r}")
    return value


def _bases(path: Path, value: Any) -> list[Path]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(one, str) for one in names):
        raise InvalidInputError(
            f"{path}: base: expected the name of an experiment file, or a list of them"
        )
    from tspo_cli.config.recipes import source_path

    return [
        path.parent / one if (path.parent / one).is_file() else source_path(one) for one in names
    ]
