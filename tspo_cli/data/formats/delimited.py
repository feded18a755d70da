"""Rows of CSV and TSV files as records, and of a JSON array of objects."""

from __future__ import annotations

import ast
import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from pathlib import Path
from typing import IO, Any

from tspo_cli.console import counted
from tspo_cli.data.formats.record_checks import (
    ScannedRow,
    column_found,
    half_found,
    has_half,
    invalid,
    key_found,
    repeated_name,
    type_name,
)
from tspo_cli.errors import InvalidInputError
from tspo_cli.runs import LONGEST_LINE
from tspo_cli.text.repeated_keys import repeated_key

_LIST_COLUMNS = frozenset(
    {
        "golden_answers", "answers", "answer", "aliases", "answer_aliases", "possible_answers",
        "supporting_ids",
    }
)  # fmt: skip
"""Columns whose cells may hold a list, as JSON or as Python or NumPy prints it."""
_OTHER_DELIMITER = re.compile(r"[,;|\t]")
_CELLS = "correct the line, or give the file as JSONL"
_MORE_CELLS = 'put quotes (") around a cell with a comma, or give the file as JSONL'
_BETWEEN = re.compile(r"[, \t\r\n]*")
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_STRING = re.compile(r"""'(?:[^'\\\n\r\0]|\\[!-~])*+'|"(?:[^"\\\n\r\0]|\\[!-~])*+\"""")
# A list of strings as Python prints it, read much faster than by Python's parser.
_STRINGS = re.compile(rf"\[ *+(?:{_STRING.pattern})(?: *+, *+(?:{_STRING.pattern}))*+ *+\]")
# The same as NumPy prints it, which leaves the commas out.
_SPACED = re.compile(rf"\[\s*+(?:{_STRING.pattern})(?:\s++(?:{_STRING.pattern}))++\s*+\]")
_BETWEEN_STRINGS = re.compile("' *+, *+'")
_READ_AT_ONCE = 1 << 20
_MOST_BEHIND = 1 << 26
"""Characters that may follow a list."""
_LONGEST_LITERAL = len(r"\ud83d\ude00")
HALF_ESCAPE = re.compile(rb"\\u[dD][89a-fA-F]")
"""Stands in JSON where it may hold half of a surrogate pair; whole pairs are written so, too."""


def _no_number(name: str) -> Any:
    raise json.JSONDecodeError(f"{name} is no JSON; null is", "", 0)


DECODER = json.JSONDecoder(parse_constant=_no_number)
"""Of strict JSON. Created once, for json.loads creates a decoder for every call with an option."""


def delimiter_of(path: Path) -> str | None:
    """The delimiter of a table by its name, `.csv` or `.tsv` with or without `.gz`; else None."""
    name = path.name.lower().removesuffix(".gz")
    return "," if name.endswith(".csv") else "\t" if name.endswith(".tsv") else None


def table_rows(path: Path, lines: Iterable[str], delimiter: str) -> Iterator[ScannedRow]:
    """Records of a table whose first line names its columns; the number is that of the line.

    A TSV row is one line; quotes around a cell are removed, as in DPR's psgs_w100.tsv, and other
    quotes are text. In a CSV file a quoted cell may hold line breaks.
    """
    rows = _csv_rows(path, lines) if delimiter == "," else _tsv_rows(lines)
    header: list[str] | None = None
    for number, cells in rows:
        if isinstance(cells, InvalidInputError):
            yield number, cells
        elif header is None:
            header = [*map(str.strip, cells)]
            if not _are_names(header):
                shown = ", ".join(repr(" ".join(name.split())[:30]) for name in header[:4])
                fix = "add such a line (id, text; or question, answer), or give the file as JSONL"
                yield number, invalid(path, number, "the names of the columns", shown, fix)
                return
            twice = repeated_name(filter(None, header))
            if twice is not None:
                yield number, column_found(path, number, twice)
                return
            if len(header) == 1 and _OTHER_DELIMITER.search(header[0]):
                wanted = "commas" if delimiter == "," else "tabs"
                fix = f"save the table with {wanted} between its cells (.csv: commas, .tsv: tabs)"
                what = f"the names of the columns with {wanted} between them"
                yield number, invalid(path, number, what, repr(header[0]), fix)
                return
        elif len(cells) != len(header):
            yield (
                number,
                invalid(
                    path,
                    number,
                    f"{counted(len(header), 'cell')} ({', '.join(header[:80])[:80]})",
                    f"{len(cells)}",
                    _MORE_CELLS if delimiter == "," and len(cells) > len(header) else _CELLS,
                ),
            )
        else:
            yield (
                number,
                {name: _cell(name, cell) for name, cell in zip(header, cells, strict=True)},
            )


def _are_names(cells: list[str]) -> bool:
    """Whether the cells of the first line can name columns: a number, a sentence or a list cannot.

    No loop of Python's: a line may have a million cells.
    """
    different = set(cells)
    return (
        max(map(len, different), default=0) <= 40
        and not any(map(str.isdecimal, different))
        and not any(map(str.endswith, different, repeat((".", "?", "]"))))
    )


def _csv_rows(
    path: Path, lines: Iterable[str]
) -> Iterator[tuple[int, list[str] | InvalidInputError]]:
    csv.field_size_limit(LONGEST_LINE)
    reader = csv.reader(lines, strict=True)
    number = 1
    try:
        for cells in reader:
            if cells:
                yield number, cells
            number = reader.line_num + 1
    except csv.Error as error:
        yield number, invalid(path, number, "a CSV row", str(error), "correct its quotes")


def _tsv_rows(lines: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            cells = line.rstrip("\r\n").split("\t")
            yield number, [_unquoted(cell) if cell.startswith('"') else cell for cell in cells]


def _unquoted(cell: str) -> str:
    return cell[1:-1].replace('""', '"') if _QUOTED.fullmatch(cell) else cell


def _cell(name: str, cell: str) -> Any:
    if name not in _LIST_COLUMNS:
        return cell
    text = cell.strip()
    if not text:
        return None
    if text.startswith("[") and text.endswith("]"):
        for parse in (DECODER.decode, _listed_strings, ast.literal_eval):
            try:
                value = parse(text)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            if isinstance(value, list):
                return value
    return [cell] if name == "supporting_ids" else cell


def _listed_strings(text: str) -> list[str]:
    """The strings of a list as Python or NumPy prints it. Raises ValueError for another text."""
    if _SPACED.fullmatch(text):
        return [_without_escapes(string[1:-1]) for string in _STRING.findall(text)]
    if not _STRINGS.fullmatch(text):
        raise ValueError("not a list of strings")
    # Without escaped quotes, every quote begins or ends a string.
    text = text.replace("\\\\", "\\x5c").replace("\\'", "\\x27")
    if '"' in text:
        strings = [string[1:-1] for string in _STRING.findall(text)]
    else:
        strings = _BETWEEN_STRINGS.split(text[text.index("'") + 1 : text.rindex("'")])
    if "\\" not in text:
        return strings
    # All at once: a string by itself takes longer than its escapes. No string has a NUL yet.
    decoded = _without_escapes("\0".join(strings)).split("\0")
    return decoded if len(decoded) == len(strings) else [_without_escapes(one) for one in strings]


def _without_escapes(text: str) -> str:
    """A text with Python's escapes, each of ASCII, as the text that they stand for."""
    return text.encode("latin-1", "backslashreplace").decode("unicode_escape")


def is_blank(rest: str) -> bool:
    """Whether nothing stands there."""
    return not rest.strip()


def _may_be_cut(error: Exception, buffer: str) -> bool:
    """Whether a value may go on behind the end of `buffer`. A literal there may be half a one."""
    return isinstance(error, json.JSONDecodeError) and (
        error.msg.startswith("Unterminated string") or error.pos >= len(buffer) - _LONGEST_LITERAL
    )


def array_rows(
    path: Path, text: IO[str], ends: Callable[[str], bool] = is_blank
) -> Iterator[ScannedRow]:
    """Objects of a JSON array, read as a stream; the number is that of the object, from 1. `ends`:
    whether what follows the array is the end of the file; other records there are an error.
    """
    buffer, at, number = text.read(_READ_AT_ONCE), 0, 0
    at = buffer.index("[") + 1
    while True:
        at = _BETWEEN.match(buffer, at).end()  # type: ignore[union-attr]
        if buffer[at : at + 1] == "]":
            if not ends(buffer[at + 1 :] + text.read(_MOST_BEHIND)) or text.read(1):
                fix = "complete the file; give every list a file of its own, or one object per line"
                what = "the JSON to end behind the list"
                yield number + 1, invalid(path, number + 1, what, "another text", fix)
            return
        try:
            start = at
            value, at = DECODER.raw_decode(buffer, at)
        except (ValueError, RecursionError) as error:
            held = len(buffer) - at
            is_cut = _may_be_cut(error, buffer)
            if is_cut and held < LONGEST_LINE:
                more = text.read(min(max(_READ_AT_ONCE, held), LONGEST_LINE - held))
                if more:
                    buffer, at = buffer[at:] + more, 0
                    continue
            expected = "an array of JSON objects up to its ]"
            problem = "a value that is too large or too deep"
            if is_cut and held >= LONGEST_LINE:
                expected = f"a record of at most {LONGEST_LINE:,} characters"
                problem = "a longer one"
            elif isinstance(error, json.JSONDecodeError):
                problem = error.msg.removesuffix(" at")
            yield (
                number + 1,
                invalid(
                    path,
                    number + 1,
                    expected,
                    problem,
                    "correct the record, or copy the file again",
                ),
            )
            return
        number += 1
        if isinstance(value, dict):
            text_of_value = buffer[start:at]
            name = repeated_key(text_of_value.encode(), value)
            if name is not None:
                yield number, key_found(path, number, name)
                continue
            half = "\\u" in text_of_value and has_half(json.dumps(value, ensure_ascii=False))
            yield number, half_found(path, number) if half else value
        else:
            expected = "an array of JSON objects, or one JSON object per line"
            yield number, invalid(path, number, expected, type_name(value), "correct the record")
