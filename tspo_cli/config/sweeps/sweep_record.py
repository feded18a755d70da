"""What the directory of a sweep says of its cells, read and checked: it may come from anybody."""

from __future__ import annotations

from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

from tspo_cli.config.sweeps.sweep_file import SWEEP_NAME
from tspo_cli.errors import InvalidInputError
from tspo_cli.plain_files import require_plain
from tspo_cli.record_forms import SWEEP, checked
from tspo_cli.runs import read_json


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
        InvalidInputError: it is none; a cell lies outside the directory, stands there twice, or has
            no value for a key of the grid.
    """
    file = path / SWEEP_NAME
    record: dict[str, Any] = checked(SWEEP, read_json(file), str(file))
    cells = record["cells"]
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
    return record
