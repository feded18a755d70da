"""The cells of a sweep with their checked configurations, and the files that keep them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import tomli_w

from tspo_cli.config.layers import Layer, apply_settings
from tspo_cli.config.load_config import load_config
from tspo_cli.config.rules import rule_problems
from tspo_cli.config.schema import Config
from tspo_cli.config.sweeps.sweep_file import SweepFile, Variant, read_sweep_file
from tspo_cli.config.tables import Table
from tspo_cli.errors import InvalidInputError, TspoError, UsageError
from tspo_cli.plain_files import LONGEST_NAME, same_file_name

SHARED_FILE = "_shared.toml"
WRITTEN = "# Written by tspo sweep, which replaces it. To change it, copy it first."
"""The first line of every experiment file that a sweep writes."""
_ABSENT = object()
_ENDINGS = 20
"""Characters that names of files have after that of a variant: its seed, and .toml or .log."""

Problems = Callable[[Config], Iterable[str]]
"""The problems of a configuration, one line each."""


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: a variant with a seed and its configuration."""

    variant: Variant
    seed: int
    config: Config

    @property
    def name(self) -> str:
        """Variant and seed as a path, unique in the sweep: `tspo/a/lr=0.0002/seed3`."""
        return f"{self.variant.name}/seed{self.seed}"


def portable_cells(cells: Iterable[Cell]) -> bool:
    """Whether all cells have train.portable, which the process that starts them needs too.

    Raises:
        InvalidInputError: some have it and others not.
    """
    values = {cell.config.train.portable for cell in cells}
    if len(values) > 1:
        raise InvalidInputError(
            "train.portable: some cells have it and others not, which compares arithmetics; set it "
            "in [settings], for all, or train each kind alone with --only"
        )
    return values == {True}


@dataclass(frozen=True)
class Sweep:
    """All cells of a sweep in the order in which they run: seed by seed, so that an unfinished
    sweep already compares arms.
    """

    path: Path
    baseline: str | None
    axes: tuple[str, ...]
    grid: tuple[str, ...]
    cells: tuple[Cell, ...]

    def record(self) -> dict[str, Any]:
        """What the sweep's directory keeps about it, for reports."""
        return {
            "file": str(self.path),
            "baseline": self.baseline,
            "axes": list(self.axes),
            "grid": list(self.grid),
            "cells": [
                {
                    "name": cell.name,
                    "arm": cell.variant.arm,
                    "place": dict(cell.variant.values),
                    "seed": cell.seed,
                }
                for cell in self.cells
            ],
        }

    def only(self, patterns: Sequence[str]) -> tuple[Cell, ...]:
        """The cells whose name matches one of the shell patterns; all cells without patterns.

        Raises:
            UsageError: a pattern matches no cell.
        """
        for pattern in patterns:
            if not any(fnmatchcase(cell.name, pattern) for cell in self.cells):
                raise UsageError(
                    f"--only {pattern}: matches no cell; `--dry-run` lists the names of all cells"
                )
        return tuple(
            cell
            for cell in self.cells
            if not patterns or any(fnmatchcase(cell.name, pattern) for pattern in patterns)
        )


def read_sweep(
    path: Path, settings: Sequence[str] = (), problems: Problems = rule_problems
) -> Sweep:
    """The cells of the sweep file `path`. `settings` win in every cell. `problems` finds out why a
    configuration could not train.

    Raises:
        InvalidInputError: a malformed file, or a cell that could not train; the message names the
        cell. MissingResourceError: the file or one of its bases does not exist.
    """
    file = read_sweep_file(path)
    cells = [
        _cell(file, variant, [*settings, f"seed={seed}"], seed, problems)
        for variant in file.variants
        for seed in variant.seeds
    ]
    _check_names(path, cells)
    return Sweep(
        path,
        file.baseline,
        file.axes,
        file.grid,
        tuple(sorted(cells, key=lambda cell: cell.seed)),
    )


def experiment_file(folder: Path, variant: Variant) -> Path:
    """Where the experiment file of a variant is written."""
    return folder / f"{_file_name(variant)}.toml"


def _file_name(variant: Variant) -> str:
    return variant.name.replace("/", "-")


def experiment_files(sweep: Sweep, folder: Path) -> dict[Path, str]:
    """The experiment files of a sweep: path and TOML text.

    The first one, `_shared.toml`, holds every key on which all variants agree. Each other one
    extends it with the keys of one variant. The seed is left out: `--set seed=N` makes a file a
    cell.
    """
    tables = {
        experiment_file(folder, cell.variant): _without_seed(cell.config) for cell in sweep.cells
    }
    first, *others = tables.values()
    shared = first
    for table in others:
        shared = _common(shared, table)
    return {
        folder / SHARED_FILE: _file_text(shared),
        **{
            path: _file_text({"extends": SHARED_FILE, **_difference(table, shared)})
            for path, table in tables.items()
        },
    }


def _file_text(table: Table) -> str:
    return f"{WRITTEN}\n\n{tomli_w.dumps(table)}"


def _cell(
    file: SweepFile, variant: Variant, settings: Sequence[str], seed: int, problems: Problems
) -> Cell:
    try:
        cell = Layer(str(file.path), apply_settings({}, variant.settings))
        config = load_config(file.bases, settings, cell=cell)
        for problem in problems(config):
            raise InvalidInputError(problem)
    except TspoError as error:
        raise type(error)(f"{file.path}: cell {variant.name}: {error}") from None
    return Cell(variant, seed, config)


def _check_names(path: Path, cells: Sequence[Cell]) -> None:
    counts = Counter(cell.name for cell in cells)
    duplicate = next((name for name, count in counts.items() if count > 1), None)
    if duplicate is not None:
        raise InvalidInputError(
            f"{path}: two cells are called {duplicate}; give axes or seeds different names"
        )
    files: dict[str, str] = {}
    for variant in (cell.variant for cell in cells):
        file = _file_name(variant)
        if len(file) > LONGEST_NAME - _ENDINGS:
            raise InvalidInputError(
                f"{path}: {file[:40]}...: expected a cell with at most {LONGEST_NAME - _ENDINGS} "
                f"characters in its name, got {len(file)}; shorten arms and values of axes, or "
                "write [axes.NAME.VALUE] instead of a [grid] of long values"
            )
        other = files.setdefault(same_file_name(file), variant.name)
        if other != variant.name:
            raise InvalidInputError(
                f"{path}: {other} and {variant.name} would have the same files (there are file "
                "systems where case does not count); rename an arm or a value of an axis"
            )
    if not cells:
        raise InvalidInputError(f"{path}: no cells; an arm or axis has an empty list of seeds")


def _without_seed(config: Config) -> Table:
    return {key: value for key, value in config.section_dict().items() if key != "seed"}


def _common(first: Mapping[str, Any], second: Mapping[str, Any]) -> Table:
    """The keys that both tables have with the same value."""
    common: Table = {}
    for key, value in first.items():
        other = second.get(key, _ABSENT)
        if isinstance(value, dict) and isinstance(other, dict):
            common[key] = _common(value, other)
        elif value == other:
            common[key] = value
    return common


def _difference(table: Mapping[str, Any], shared: Mapping[str, Any]) -> Table:
    """The keys of `table` that `shared` lacks."""
    difference: Table = {}
    for key, value in table.items():
        if key not in shared:
            difference[key] = value
        elif isinstance(value, dict) and (inner := _difference(value, shared[key])):
            difference[key] = inner
    return difference
