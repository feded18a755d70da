"""A passage from a record, in the forms that published corpora give it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from tspo_cli.console import say
from tspo_cli.data.formats.record_checks import Row, ScannedRow, invalid, text_id, type_name
from tspo_cli.data.question import Passage

ID_NAMES = ("id", "_id", "pid", "passage_id", "docid", "doc_id")
"""Names of the id, in the order in which they count: BEIR has `_id`, TREC `docid`. A passage of MS
MARCO has a `pid` beside the `docid` of its document.
"""
_TEXT_NAMES = ("text", "passage", "content", "body", "segment")
_NAMES = frozenset({*ID_NAMES, "contents", "title", *_TEXT_NAMES})
Scanned = TypeVar("Scanned", Row, ScannedRow)
_FORMS = '{"id", "contents"} or {"id", "title", "text"}'


def parse_passage(path: Path, number: int, record: dict[str, Any]) -> Passage:
    """The passage of a record. `contents` has priority over `title` and the text.

    The text is `text`, or else the only one of `passage`, `content`, `body` and `segment`. The
    title may be absent. Capital letters in names do not count (`ID`, `Title`). Raises
    InvalidInputError.
    """
    record = _known(record)
    identifier = text_id(path, number, _first(record, ID_NAMES))
    contents = record.get("contents")
    if contents is not None:
        if not isinstance(contents, str):
            raise invalid(
                path,
                number,
                '"contents" to be a string',
                type_name(contents),
                'write "title" in quotes, a newline, the text',
            )
        return Passage(identifier, *_split_contents(contents))
    title, text = record.get("title"), _text(path, number, record)
    if not isinstance(text, str) or not (title is None or isinstance(title, str)):
        raise invalid(
            path,
            number,
            '"contents", or "title" and "text" (or "text" alone), as strings',
            f"fields {field_names(record)}" if text is None else "a field of another type",
            f"give {_FORMS}",
        )
    if title and "\n" in title:
        raise invalid(
            path, number, '"title" on one line', "a newline in it", "put the rest into the text"
        )
    return Passage(identifier, title or "", text)


def _text(path: Path, number: int, record: dict[str, Any]) -> Any:
    if "text" in record:
        return record["text"]
    present = [name for name in _TEXT_NAMES if name in record]
    if len(present) > 1:
        raise invalid(path, number, "one text", f"fields {' and '.join(present)}", f"give {_FORMS}")
    return record[present[0]] if present else None


def _known(record: dict[str, Any]) -> dict[str, Any]:
    """`record` under the names of `_NAMES`, where its names differ from them in case alone."""
    renamed = _renamed(tuple(record))
    return {renamed.get(name, name): value for name, value in record.items()} if renamed else record


@lru_cache(maxsize=64)
def _renamed(names: tuple[str, ...]) -> Mapping[str, str]:
    """Our name for each that differs from it in case alone; nothing for two that are the same."""
    small = {name: name.lower() for name in names if name not in _NAMES}
    if _NAMES.isdisjoint(small.values()):
        return {}
    counts = Counter(map(str.lower, names))
    return {name: ours for name, ours in small.items() if ours in _NAMES and counts[ours] == 1}


def _first(record: dict[str, Any], names: tuple[str, ...]) -> Any:
    for name in names:
        value = record.get(name)
        if value is not None:
            return value
    return None


def has_id(record: dict[str, Any]) -> bool:
    """Whether a record of a passage has a field for its id."""
    return _have_id(tuple(record))


@lru_cache(maxsize=64)
def _have_id(names: tuple[str, ...]) -> bool:
    return not _known(dict.fromkeys(names)).keys().isdisjoint(ID_NAMES)


def has_text(record: dict[str, Any]) -> bool:
    """Whether a record has a field for the text of a passage."""
    return not _known(record).keys().isdisjoint(("contents", *_TEXT_NAMES))


def numbered(path: Path, rows: Iterator[Scanned], first: int = 0) -> Iterator[Scanned]:
    """The records of a corpus; if the first has no field for an id, those without get their
    position, counted from `first`. This is said once.
    """
    head = next(rows, None)
    if head is None:
        return
    if isinstance(head[1], dict) and not has_id(head[1]):
        say(f"{path}: records have no id; their positions from {first} are their ids")
        yield from _with_positions(chain([head], rows), first)
    else:
        yield head
        yield from rows


def _with_positions(rows: Iterator[Scanned], first: int) -> Iterator[Scanned]:
    for position, row in enumerate(rows, start=first):
        record: Any = row[1]
        if isinstance(record, dict) and not has_id(record):
            record["id"] = position
        yield row


def field_names(record: dict[str, Any]) -> str:
    """The names of the fields of a record, for a message of one line."""
    names = [" ".join(name.split())[:30] for name in map(str, record)]
    return ", ".join(names[:12]) + (", ..." if len(names) > 12 else "") or "(none)"


def _split_contents(contents: str) -> tuple[str, str]:
    title, newline, text = contents.partition("\n")
    if len(title) >= 2 and title.startswith('"') and title.endswith('"'):
        return title[1:-1], text
    return (title, text) if newline else ("", contents)
