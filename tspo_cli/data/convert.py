"""From any form that can be read to our own JSONL."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from tspo_cli.data.readers import read_passages, read_questions
from tspo_cli.data.rows import invalid, read_rows
from tspo_cli.data.writers import write_passages, write_questions
from tspo_cli.errors import InvalidInputError

Kind = Literal["questions", "passages"]


def record_kind(record: dict[str, Any]) -> Kind | None:
    """What a record is, judged by its fields; None for neither."""
    extra_info = record.get("extra_info")
    if (
        "question" in record
        or "Question" in record
        or (isinstance(extra_info, dict) and "question" in extra_info)
    ):
        return "questions"
    return "passages" if "contents" in record or "text" in record else None


def guess_kind(path: Path) -> Kind:
    """What a file holds, judged by its first record.

    Raises:
        MissingResourceError: no such file.
        InvalidInputError: it is empty, or its first record is malformed, or neither a question nor
        a passage.
    """
    for number, first in read_rows(path):
        kind = record_kind(first)
        if kind is None:
            fix = 'give records "question" and "golden_answers", or "id" and "contents"'
            raise invalid(
                path,
                number,
                "a question or a passage",
                f"fields {', '.join(first) or '(none)'}",
                fix,
            )
        return kind
    raise InvalidInputError(
        f"{path}: expected questions or passages, got an empty file; fix: name another file"
    )


def convert(source: Path, target: Path, kind: Kind | None = None) -> tuple[Kind, int]:
    """Write the records of `source` to `target` (JSONL; gzipped if it ends in .gz); returns their
    kind and number.

    Raises:
        MissingResourceError: no such file.
        InvalidInputError: a malformed record, an id given twice, no record, or a target that is no
        JSONL name.
    """
    if not target.name.endswith((".jsonl", ".jsonl.gz")):
        raise InvalidInputError(
            f"{target}: expected a name that ends in .jsonl or .jsonl.gz; fix: rename the output"
        )
    kind = kind or guess_kind(source)
    if kind == "questions":
        return kind, write_questions(target, read_questions(source))
    return kind, write_passages(target, read_passages(source))
