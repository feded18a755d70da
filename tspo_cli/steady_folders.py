"""Reading a folder that another process may replace meanwhile: no half of two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tspo_cli.errors import InvalidInputError, TspoError

T = TypeVar("T")


def identity(folder: Path) -> tuple[int, int] | None:
    """What tells a folder from another one at its place; None where none is."""
    try:
        state = folder.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    return state.st_dev, state.st_ino


def steady(
    path: Path, read: Callable[[], T], state: Callable[[Path], object] = identity, looks: int = 3
) -> T:
    """What `read` gives of a folder that stays the same meanwhile, as its `state` says: no half of
    two. It is read again, `looks` times at most.

    Raises:
        InvalidInputError: the folder was replaced again and again.
    """
    for _ in range(looks):
        before = state(path)
        try:
            found = read()
        except (TspoError, OSError):
            if state(path) == before:
                raise
        else:
            if state(path) == before:
                return found
    raise InvalidInputError(f"{path}: was replaced while it was read; try again")
