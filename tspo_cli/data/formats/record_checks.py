"""What all readers of records share: the error of a record, ids, and the check for equal ids."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Hashable, Iterable
from itertools import repeat
from pathlib import Path
from typing import Any

from tspo_cli.console import agreeing, say
from tspo_cli.errors import InvalidInputError

Row = tuple[int, dict[str, Any]]
ScannedRow = tuple[int, dict[str, Any] | InvalidInputError]


_HALF = re.compile("[\ud800-\udfff]")


def has_half(text: str) -> bool:
    """True for a text with half of a surrogate pair, which only an escape of JSON can carry: it is
    no character, and no file and no tokenizer takes it.
    """
    return not text.isascii() and _HALF.search(text) is not None


def half_found(path: Path, number: int) -> InvalidInputError:
    """The error of a record with `has_half`."""
    return invalid(
        path,
        number,
        "whole characters",
        "half of a surrogate pair, such as \\ud83d",
        "write the whole character, or \\ufffd in its place",
    )


def key_found(path: Path, number: int, name: str) -> InvalidInputError:
    """The error of a record with `repeated_key`."""
    return invalid(path, number, "each key once", f'"{name}" twice', "remove one of the two")


def invalid(path: Path, number: int, expected: str, got: str, fix: str) -> InvalidInputError:
    """The error of a record: file and line, what was expected, what it has, and how to fix it."""
    return InvalidInputError(f"{path}:{number}: expected {expected}, got {got}; fix: {fix}")


def repeated_name(names: Iterable[str]) -> str | None:
    """The first of the names of columns that stands twice, if one does. A table may have as many
    columns as its file has bytes.
    """
    return next((name for name, count in Counter(names).items() if count > 1), None)


def column_found(path: Path, number: int, name: str) -> InvalidInputError:
    """The error of a table with `repeated_name`."""
    what, fix = "columns with names that differ", "rename or remove one"
    return invalid(path, number, what, f"{name!r} twice", fix)


def type_name(value: Any) -> str:
    """The JSON name of the type of `value`."""
    names = {
        dict: "an object",
        list: "a list",
        str: "a string",
        bool: "a boolean",
        type(None): "null",
    }
    return names.get(type(value), "a number")


def text_id(path: Path, number: int, value: Any, name: str = "id") -> str:
    """An id as a string; whole numbers are accepted."""
    if type(value) is str and value and value.isascii():
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        got = "an empty string" if value == "" else type_name(value)
        raise invalid(
            path,
            number,
            f'"{name}" to be a string or a whole number',
            got,
            "give every record an id",
        )
    if has_half(value):
        raise half_found(path, number)
    return value


class SeenIds:
    """The first line of each id.

    Ids that increase by one from line to line, as in wiki-18 with its 21 million passages, need no
    memory.
    """

    def __init__(self) -> None:
        self._offset: int | None = None
        self._run_start = 0
        self._run_end = 0
        self._lines: dict[str, int] = {}

    def first_line(self, identifier: str, number: int) -> int | None:
        """The earlier line with this id. Without one, store `number` and return None."""
        value = (
            int(identifier)
            if len(identifier) < 19 and identifier.isascii() and identifier.isdecimal()
            else None
        )
        if value is not None and str(value) == identifier:
            if self._offset is None:
                self._offset, self._run_start, self._run_end = value - number, value, value
            if self._run_start <= value < self._run_end:
                return value - self._offset
            if value == self._run_end == number + self._offset:
                self._run_end += 1
                return self._lines.get(identifier)
        earlier = self._lines.setdefault(identifier, number)
        return earlier if earlier != number else None


class RepeatedIds:
    """Finds records with the id of an earlier record of their file, and those among them that are
    the same record again. Memory holds 8 bytes of each record, and ids as `SeenIds`.
    """

    def __init__(self) -> None:
        self.same = 0
        """Records that are the same as an earlier one."""
        self._seen = SeenIds()
        self._hashes = array("q")

    def earlier(self, identifier: str, number: int, content: Hashable) -> tuple[int, bool] | None:
        """The line of an earlier record with this id, and whether it has this content. None:
        there is none, and this record at line `number`, behind all others, is the first.
        """
        line = self._seen.first_line(identifier, number)
        if line is None:
            if number > len(self._hashes):
                self._hashes.extend(repeat(0, number - len(self._hashes)))
            self._hashes.append(hash(content))
            return None
        is_same = self._hashes[line] == hash(content)
        self.same += is_same
        return line, is_same

    def announce(self, path: Path, noun: str) -> None:
        """Say how many records are the same as an earlier one, if any are."""
        if self.same:
            same = agreeing(
                self.same,
                f"{noun} is identical to an earlier one and was left out",
                f"{noun}s are identical to an earlier one and were left out",
            )
            say(f"{path}: {same}")
