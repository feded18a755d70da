"""What --overwrite does not delete: files of the user's, and inputs of the command itself."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from pathlib import Path

from tspo_cli.disk import LOCK_NAME
from tspo_cli.errors import InvalidInputError

_MOST_NAMES = 3
_TEMPORARY = re.compile(
    r"\.(?:.+\.\d+|(?:model|best|adapter|settings|step_\d+|version_.+|damaged_.+)(?:\.old)?)\.tmp"
)
"""Files have the number of their process in the name, folders the name that they are to get."""
_LEFTOVERS = (".build", ".new", ".replaced", ".tmp", ".old.tmp")
"""Endings of what a killed process leaves beside a folder that it was replacing."""


def require_own(
    folder: Path, ours: Collection[str], what: str, inside: re.Pattern[str] | None = None
) -> None:
    """Raises InvalidInputError where a folder that is about to be replaced holds something else
    than `ours`, the names of files and folders in `what`. `inside` matches the paths, from the
    folder, of all files in these folders that are ours; None: these folders are ours with all that
    is in them.
    """
    if not folder.is_dir():
        return
    left = {f".{name}{ending}" for name in ours for ending in _LEFTOVERS}
    foreign = sorted({path.name for path in folder.iterdir()} - {*ours, *left, LOCK_NAME})
    if not foreign and inside is not None:
        foreign = [path for path in _files_below(folder) if not inside.fullmatch(path)]
    if foreign:
        raise InvalidInputError(
            f"{folder}: holds files that are not of {what} and would be deleted ("
            f"{shown_names(foreign)}); move them to another place, or choose another --out"
        )


def _files_below(folder: Path) -> list[str]:
    """The files in the folders of a folder, by their paths from there, without what killed
    processes left. A link is no folder.
    """
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not is_left_over(name)]
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        if place != str(folder):
            names = [
                name for name in (*files, *links) if name != LOCK_NAME and not is_left_over(name)
            ]
            found += [os.path.relpath(os.path.join(place, name), folder) for name in names]
    return sorted(found)


def is_temporary(path: Path) -> bool:
    """True for what a write of ours that was killed leaves behind."""
    return _TEMPORARY.fullmatch(path.name) is not None


def is_left_over(name: str) -> bool:
    """True for the name of what a killed process leaves beside or in what it was replacing."""
    if name.endswith(".tmp"):
        return is_temporary(Path(name))
    return name.startswith(".") and name.endswith(_LEFTOVERS)


def shown_names(names: Sequence[str]) -> str:
    """The first names, as a line can show them."""
    return ", ".join(names[:_MOST_NAMES]) + ", ..." * (len(names) > _MOST_NAMES)


def require_outside(folder: Path, *inputs: Path | str) -> None:
    """Raises InvalidInputError where an input lies in a folder that is about to be replaced, also
    as a link, which goes with the folder.
    """
    place = folder.resolve()
    for path in (Path(name) for name in inputs if name and Path(name).exists()):
        entry = Path(os.path.normpath(path.parent.resolve() / path.name))
        if entry.is_relative_to(place) or path.resolve().is_relative_to(place):
            raise InvalidInputError(
                f"{path}: lies in {folder}, which --overwrite would delete; copy it to another "
                "place, or choose another --out"
            )
