"""What the directory of a sweep says of its cells, read and checked: it may come from anybody."""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

from tspo_cli.config.old_records import current_keys
from tspo_cli.config.sweeps.sweep_cells import SHARED_FILE
from tspo_cli.config.sweeps.sweep_file import SWEEP_NAME
from tspo_cli.config.tables import Table, merge
from tspo_cli.errors import InvalidInputError
from tspo_cli.plain_files import is_plain, read_plain_text, require_plain
from tspo_cli.record_forms import SWEEP, checked
from tspo_cli.runs import read_json
from tspo_cli.text.toml_text import parse_toml

CONFIGS_NAME = "configs"
"""The folder of a sweep with the experiment files of its variants."""


def is_sweep(path: Path) -> bool:
    """True for a directory that `tspo sweep` made.

    Raises:
        InvalidInputError: something else than a file stands in the place of its record.
    """
    require_plain(path / SWEEP_NAME)
    return (path / SWEEP_NAME).exists()


def read_sweep_record(path: Path) -> dict[str, Any]:
    """The record of the sweep in `path`, as `Sweep.record` made it.

    Raises:
        InvalidInputError: it is none; a cell lies outside the directory, stands there twice, has
            no value for a key of the grid, or another arm or seed than its name.
    """
    file = path / SWEEP_NAME
    record: dict[str, Any] = checked(SWEEP, read_json(file), str(file))
    cells = record["cells"]
    arms, baseline = list(dict.fromkeys(cell["arm"] for cell in cells)), record["baseline"]
    if baseline is not None and baseline not in arms:
        raise InvalidInputError(
            f"{file}: baseline: expected one of {', '.join(arms)}, got {baseline!a:.80}; put back "
            "a copy"
        )
    for name, count in Counter(cell["name"] for cell in cells).items():
        parts = PurePosixPath(name).parts
        if not parts or ".." in parts or parts[0] == "/" or "\0" in name:
            raise InvalidInputError(f"{file}: cell {name!r}: expected a name in this directory")
        if count > 1:
            raise InvalidInputError(f"{file}: cell {name!r}: expected one of this name")
    for cell in cells:
        for key in record["grid"]:
            if key not in cell["place"]:
                raise InvalidInputError(
                    f"{file}: cell {cell['name']!r}: place: expected a value of {key}"
                )
        parts = PurePosixPath(cell["name"]).parts
        if (parts[0], parts[-1]) != (cell["arm"], f"seed{cell['seed']}"):
            raise InvalidInputError(
                f"{file}: cell {cell['name']!r}: expected the arm and the seed of its name, got "
                f"arm {cell['arm']!a:.80} and seed {cell['seed']}; put back a copy"
            )
    return record


def cell_file(path: Path, cell: str) -> Path:
    """The experiment file that the sweep in `path` wrote for the variant of a cell."""
    return path / CONFIGS_NAME / f"{cell.rpartition('/')[0].replace('/', '-')}.toml"


def written_settings(path: Path, cell: str) -> Table | None:
    """The settings in `cell_file` without a seed, None without that file. Nothing that they name is
    read.

    Raises:
        InvalidInputError: it is no TOML.
    """
    file = cell_file(path, cell)
    if not is_plain(file):
        return None
    own = parse_toml(read_plain_text(file), str(file))
    shared = file.with_name(SHARED_FILE)
    if own.pop("extends", None) == SHARED_FILE and is_plain(shared):
        own = merge(parse_toml(read_plain_text(shared), str(shared)), own)
    return current_keys(own)
