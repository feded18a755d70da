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
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic_core import from_json

from tspo_cli.errors import InvalidInputError
from tspo_cli.text.repeated_keys import RepeatedKeyError, once, repeated_key

_ESCAPED = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_DECODER = json.JSONDecoder(object_pairs_hook=once)


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
        InvalidInputError: no JSON, no UTF-8, nested too deep, a number of thousands of digits, or
            an object with a key twice.
    """
    try:
        if isinstance(text, bytes):
            text = text.removeprefix(BOM_UTF8).decode()
        return decoded(_DECODER, text)
    except RepeatedKeyError as error:
        raise InvalidInputError(
            f'{where}: expected each key once, got "{error}" twice; remove one'
        ) from None
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
        InvalidInputError: a line is no JSON object, or has a key twice; the message names the file
            and the line.
    """
    filled = [*filter(bytes.strip, lines)]
    records = _values(filled)
    pairs = enumerate(zip(filled, records, strict=False))
    odd = (place for place, pair in pairs if type(pair[1]) is not dict or repeated_key(*pair))
    wrong = next(odd, len(records))
    if wrong < len(filled):
        numbers = [number for number, line in enumerate(lines, start=first) if line.strip()]
        where = f"{path}:{numbers[wrong]}"
        parse_json(filled[wrong], where)
        raise InvalidInputError(f"{where}: expected a JSON object")
    return records


def _values(lines: Sequence[bytes]) -> list[Any]:
    """The values of the lines before the first that is no JSON."""
    values, rest, again = list[Any](), iter(lines), 1
    while len(values) < len(lines):
        before = len(values)
        try:
            values.extend(map(from_json, rest))  # much faster; an error leaves what came before it
        except ValueError:  # no JSON, or half a surrogate pair, which `from_json` refuses
            # Such lines seldom come alone: after each, twice as many are read by the other parser.
            again = 2 * again if len(values) == before else 1
            refused = lines[len(values)]
            try:
                values.extend(parse_json(line, "") for line in (refused, *islice(rest, again - 1)))
            except InvalidInputError:
                break
    return values


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
