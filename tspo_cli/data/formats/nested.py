"""The original files of SQuAD and TriviaQA: one JSON object with the records in a list."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tspo_cli.data.formats.delimited import DECODER, array_rows, is_blank
from tspo_cli.data.formats.record_checks import ScannedRow, invalid
from tspo_cli.errors import InvalidInputError

_OPENING = re.compile(
    rb'\{\s*(?:"version"\s*:\s*"[^"]{0,64}"\s*,\s*)?"(?:data|Data)"\s*:\s*\[\s*[{\]]'
)


def is_nested(start: bytes) -> bool:
    """Whether a file that begins in this way is one object with its records in `data` or `Data`."""
    return _OPENING.match(start) is not None


def nested_rows(path: Path, text: IO[str]) -> Iterator[ScannedRow]:
    """The records of such a file, read as a stream; the number is that of the record, from 1. Of an
    article of SQuAD they are its questions.
    """
    number = 0
    for place, entry in array_rows(path, text, _ends_object):
        for record in _questions(path, place, entry):
            number += 1
            yield number, record


def _ends_object(rest: str) -> bool:
    """Whether the object ends there, perhaps after other fields, and the file with it."""
    opened = '{"":0'
    try:
        fields, end = DECODER.raw_decode(opened + rest)
    except (ValueError, RecursionError):
        return False
    return not fields.keys() & {"data", "Data"} and is_blank(rest[end - len(opened) :])


def _questions(
    path: Path, place: int, entry: dict[str, Any] | InvalidInputError
) -> Iterator[dict[str, Any] | InvalidInputError]:
    if isinstance(entry, InvalidInputError) or "paragraphs" not in entry or "question" in entry:
        yield entry
        return
    paragraphs = entry["paragraphs"]
    for paragraph in paragraphs if isinstance(paragraphs, list) else [None]:
        questions = paragraph.get("qas") if isinstance(paragraph, dict) else None
        for question in questions if isinstance(questions, list) else [None]:
            if not isinstance(question, dict):
                expected = '"paragraphs" of SQuAD, objects with a list "qas" of questions'
                fix = "correct the article of this number"
                yield invalid(path, place, expected, "another form", fix)
                return
            yield _with_texts(question) | {"title": entry.get("title")}


def _with_texts(record: dict[str, Any]) -> dict[str, Any]:
    """A question of SQuAD with the texts of its answers alone, each once."""
    answers = record.get("answers")
    if not isinstance(answers, list):
        return record
    texts = [answer.get("text") if isinstance(answer, dict) else answer for answer in answers]
    are_strings = all(isinstance(text, str) for text in texts)
    return record | {"answers": list(dict.fromkeys(texts)) if are_strings else texts}
