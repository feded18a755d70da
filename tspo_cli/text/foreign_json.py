"""JSON that a server sent, with what no request, record or tokenizer of ours can hold replaced."""

from __future__ import annotations

import json
import math
import re
from typing import Any

from tspo_cli.text.repeated_keys import once
from tspo_cli.text.secrets import without_keys

_HALF = re.compile("[\ud800-\udfff]")


def parse_foreign(content: str | bytes) -> Any:
    """The value of a JSON text. Halves of surrogate pairs are U+FFFD, numbers that are not finite
    are None, and the keys of the environment (`without_keys`) are hidden.

    Raises:
        RepeatedKeyError: an object has a key twice.
        ValueError: no JSON, nested too deep, or a number of thousands of digits.
    """
    try:
        return _plain(json.loads(content, object_pairs_hook=once))
    except RecursionError:
        raise ValueError("nested too deep") from None


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return without_keys(value if value.isascii() else _HALF.sub("\ufffd", value))
    if isinstance(value, dict):
        return {_plain(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
