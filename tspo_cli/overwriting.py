"""What --overwrite does not delete: files of the user's, and inputs of the command itself."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from tspo_cli.disk import LOCK_NAME
from tspo_cli.errors import InvalidInputError

_MOST_NAMES = 3
_LEFTOVERS = (".build", ".new", ".replaced", ".tmp", ".old.tmp")
"""Endings of what a killed process leaves beside a folder that it was replacing."""


def require_own(folder: Path, ours: Collection[str], what: str) -> None:
    """Raises InvalidInputError where a folder that is about to be replaced holds something else
    than `ours`, the names of files and folders in `what`.
    """
    if not folder.is_dir():
        return
    left = {f".{name}{ending}" for name in ours for ending in _LEFTOVERS}
    foreign = sorted({path.name for path in folder.iterdir()} - {*ours, *left, LOCK_NAME})
    if foreign:
        names = ", ".join(foreign[:_MOST_NAMES]) + ", ..." * (len(foreign) > _MOST_NAMES)
        raise InvalidInputError(
            f"{folder}: holds files that are not of {what} and would be deleted ({names}); move "
            "them to another place, or choose another --out"
        )


def require_outside(folder: Path, *inputs: Path | str) -> None:
    """Raises InvalidInputError where an input lies in a folder that is about to be replaced."""
    for path in inputs:
        if path and Path(path).exists() and Path(path).resolve().is_relative_to(folder.resolve()):
            raise InvalidInputError(
                f"{path}: lies in {folder}, which --overwrite would delete; copy it to another "
                "place, or choose another --out"
            )
