"""JSON as every file and every `--json` of ours has it, and reading it with an error of one line.

Written: strict JSON. A number that is not finite has no form in it and is written as null, which
readers take as "not measured". Characters that steer a terminal, turn the direction of text or end
a line elsewhere are written as escapes: parsers give them back, and no program shows or splits at
them by accident. Half a surrogate pair, which no UTF-8 file can hold, is an escape, too.
"""

from __future__ import annotations

import json
import math
import re
from codecs import BOM_UTF8
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from tspo_cli.errors import InvalidInputError

_ESCAPED = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_DECODER = json.JSONDecoder()


def json_text(value: Any, *, indent: int | None = None, compact: bool = False) -> str:
    """`value` as strict JSON: on one line unless `indent` says otherwise, `compact` without
    spaces.
    """
    encode = partial(
        json.dumps,
        ensure_ascii=False,
        indent=indent,
        allow_nan=False,
        separators=(",", ":") if compact else None,
    )
    try:
        text = encode(value)
    except ValueError:
        text = encode(_finite(value))
    return _ESCAPED.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def parse_json(text: str | bytes, where: str) -> Any:
    """The value of a JSON text. `where` names the file, and the line if it has several.

    Old files may have NaN and Infinity.

    Raises:
        InvalidInputError: no JSON, no UTF-8, nested too deep, or a number of thousands of digits.
    """
    try:
        if isinstance(text, bytes):
            text = text.removeprefix(BOM_UTF8).decode()
        return decoded(_DECODER, text)
    except json.JSONDecodeError as error:
        at = f"line {error.lineno}, column {error.colno}"
        problem = error.msg.removesuffix(" at")  # "Unterminated string starting at"
        raise InvalidInputError(f"{where}: not valid JSON ({problem} at {at})") from None
    except UnicodeDecodeError as error:
        reason = f"byte {error.start} is not UTF-8"
        raise InvalidInputError(f"{where}: not valid JSON ({reason})") from None
    except (ValueError, RecursionError):
        reason = "a value is too large or nested too deep"
        raise InvalidInputError(f"{where}: not valid JSON ({reason})") from None


def parse_lines(lines: Sequence[bytes], path: Path, first: int = 1) -> list[dict[str, Any]]:
    """The records in lines of a JSONL file, of which the first is number `first`. Blank lines are
    left out.

    Raises:
        InvalidInputError: a line is no JSON object; the message names the file and the line.
    """
    with suppress(ValueError):  # an error, or half a surrogate pair, which `from_json` refuses
        records = [*map(from_json, filter(bytes.strip, lines))]  # much faster than line by line
        if {*map(type, records)} <= {dict}:
            return records
    records, name = [], str(path)
    for number, line in enumerate(lines, start=first):
        if line.strip():
            record = parse_json(line, f"{name}:{number}")
            if not isinstance(record, dict):
                raise InvalidInputError(f"{name}:{number}: expected a JSON object")
            records.append(record)
    return records


def decoded(decoder: json.JSONDecoder, text: str) -> Any:
    """`decoder.decode(text)`, twice as fast for one value with at most a newline behind it, as
    lines have it.
    """
    try:
        value, end = decoder.scan_once(text, 0)  # type: ignore[attr-defined]  # not in typeshed
    except StopIteration:
        return decoder.decode(text)
    return value if text[end:] in ("", "\n") else decoder.decode(text)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    return [_finite(part) for part in value] if isinstance(value, list | tuple) else value
