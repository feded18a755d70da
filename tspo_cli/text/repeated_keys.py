"""Keys that an object of a JSON text has twice. Parsers keep the last and say nothing; which of the
two is meant, nobody can know.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

_APART = re.compile(rb'"[ \t\r\n]+:')
_SHOWN = 60


class RepeatedKeyError(ValueError):
    """The key that an object has twice, as a line can show it."""


def repeated_key(text: bytes, value: Any) -> str | None:
    """A key that an object in `text` has twice, as a line can show it; None if no object has one.
    `value` is what a parser made of the text.

    The text is parsed again only where it may have more keys than the value: every key has a colon.
    """
    colons = text.count(b":")
    if isinstance(value, dict) and colons == len(value):
        return None
    keys = _keys(value)
    if colons == keys or (text.count(b'":') == keys and not _APART.search(text)):
        return None
    try:
        json.loads(text, object_pairs_hook=once, parse_int=str, parse_float=str)
    except RepeatedKeyError as error:
        return str(error)
    return None


def _keys(value: Any) -> int:
    """The keys of all objects in a value; -1 where it is too deep to count them."""
    try:
        return _count(value) if isinstance(value, dict | list) else 0
    except RecursionError:
        return -1


def _count(value: dict[str, Any] | list[Any]) -> int:
    found, parts = (len(value), value.values()) if isinstance(value, dict) else (0, value)
    for part in parts:
        kind = type(part)
        if kind is dict or kind is list:
            found += _count(part)
    return found


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For `json.JSONDecoder`: an object of these pairs.

    Raises:
        RepeatedKeyError: a key is there twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        [(name, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise RepeatedKeyError(ascii(name[:_SHOWN])[1:-1])
    return found
