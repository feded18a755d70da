"""Read TOML of any origin: what Python's parser would be slow at, or die of, is refused first.

Its time grows with the square of the parts of a dotted key and more, it calls itself for every
bracket, and Python turns no number of thousands of digits into an integer. No experiment needs any
of this: a key has four parts at most.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any

from tspo_cli.errors import InvalidInputError

MOST_BYTES = 1 << 18
MOST_PARTS = 16
"""Of a dotted key, and of brackets within each other."""
MOST_DEPTH = 32
"""Of tables and lists within each other, however they are written."""
MOST_DIGITS = 1000

# Strings and comments, in which brackets and dots mean nothing. A string without an end goes on to
# the end of its line or text; no pattern ever looks back or starts within a word: one pass.
_TEXT = re.compile(
    r"""\"{3}(?:[^"\\]|\\.|"(?!""))*+(?:"{3,5})?|'{3}(?:[^']|'(?!''))*+(?:'{3,5})?"""
    r"""|"(?:[^"\\\n]|\\.)*+"?|'[^'\n]*+'?|\#[^\n]*+""",
    re.DOTALL,
)
_DOTTED = re.compile(rf"""(?<![\w\-"])(?:[\w\-"]++[ \t]*+\.[ \t]*+){{{MOST_PARTS}}}""")
# A number begins with a digit, unlike a name of the letters a to f.
_DIGITS = re.compile(rf"(?<![\w\-])\dx?[\da-fA-F_]{{{MOST_DIGITS}}}")
_BRACKET = re.compile(r"[\[\]{}]")
_AT = re.compile(r" \(at line (\d+), column \d+\)")


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """The table of a TOML text. `where` names the file in messages.

    Raises:
        InvalidInputError: bad TOML, or more of something than the limits above; with the line.
    """
    if len(text) > MOST_BYTES:
        raise InvalidInputError(
            f"{where}: not valid TOML for tspo: larger than {MOST_BYTES >> 10} KiB; expected the "
            "keys of an experiment"
        )
    for line, problem in _excesses(text):
        raise InvalidInputError(f"{where}:{line}: not valid TOML for tspo: {problem}")
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = _AT.search(str(error))
        line = int(at.group(1)) if at else text.count("\n") + (not text.endswith("\n"))
        reason = str(error)[: at.start()] if at else str(error)
        raise InvalidInputError(f"{where}:{line}: not valid TOML: {reason}") from None
    except (ValueError, RecursionError):
        raise InvalidInputError(
            f"{where}: not valid TOML: a value that Python cannot hold"
        ) from None
    if _is_deeper(table, MOST_DEPTH):
        raise InvalidInputError(
            f"{where}: not valid TOML for tspo: tables nested more than {MOST_DEPTH} deep"
        )
    return table


def _excesses(text: str) -> Iterator[tuple[int, str]]:
    """The lines, from 1, with more of something than an experiment can need."""
    bare = _TEXT.sub(lambda found: '""' + "\n" * found.group().count("\n"), text)
    if found := _DOTTED.search(bare):
        yield _line(bare, found.start()), f"a key of more than {MOST_PARTS} parts"
    if found := _DIGITS.search(bare):
        yield _line(bare, found.start()), f"a number of more than {MOST_DIGITS} digits"
    depth = 0
    for found in _BRACKET.finditer(bare):
        depth += 1 if found.group() in "[{" else -1
        if depth > MOST_PARTS:
            yield _line(bare, found.start()), f"brackets nested more than {MOST_PARTS} deep"
            return


def _line(text: str, place: int) -> int:
    return text.count("\n", 0, place) + 1


def _is_deeper(value: object, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            part
            for inner in level
            if isinstance(inner, dict | list)
            for part in (inner.values() if isinstance(inner, dict) else inner)
        ]
    return any(isinstance(value, dict | list) for value in level)
