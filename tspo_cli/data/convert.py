"""Convert questions and passages of any supported format to JSONL."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from tspo_cli.data.corpus.passage_forms import has_text
from tspo_cli.data.formats.record_checks import invalid
from tspo_cli.data.readers import read_passages, read_questions
from tspo_cli.data.rows import read_rows
from tspo_cli.data.writers import write_passages, write_questions
from tspo_cli.errors import InvalidInputError

T = TypeVar("T")
Kind = Literal["questions", "passages"]


def record_kind(record: dict[str, Any]) -> Kind | None:
    """The kind of a record, recognised by its fields; None for neither."""
    extra_info = record.get("extra_info")
    if (
        "question" in record
        or "Question" in record
        or (isinstance(extra_info, dict) and "question" in extra_info)
    ):
        return "questions"
    return "passages" if has_text(record) else None


def guess_kind(path: Path) -> Kind:
    """The kind of the records of a file, recognised by the first record.

    Raises:
        MissingResourceError: the file does not exist.
        InvalidInputError: the file is empty, or its first record is malformed, or neither a
            question nor a passage.
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


def convert(
    source: Path, target: Path, kind: Kind | None = None, *, overwrite: bool = False
) -> tuple[Kind, int]:
    """Write the records of `source` to `target` as JSONL, gzipped if the name ends in .gz. Return
    their kind and number. Records that are identical to an earlier one are left out, which is said.

    Raises:
        MissingResourceError: the source does not exist.
        InvalidInputError: a record is malformed, records with the same id differ, there is no
            record, or the target's name is not one of JSONL; or the target is there, and
            `overwrite` is not set; or it is the source.
    """
    if not target.name.endswith((".jsonl", ".jsonl.gz")):
        raise InvalidInputError(
            f"{target}: expected a name that ends in .jsonl or .jsonl.gz; fix: rename the output"
        )
    check = partial(_check_target, target, source, overwrite)
    check()
    kind = kind or guess_kind(source)
    if kind == "questions":
        return kind, write_questions(target, _followed_by(check, read_questions(source)))
    return kind, write_passages(target, _followed_by(check, read_passages(source)))


def _followed_by(check: Callable[[], None], records: Iterable[T]) -> Iterator[T]:
    """The records; then the target is checked again, for reading may take minutes."""
    yield from records
    check()


def _check_target(target: Path, source: Path, overwrite: bool) -> None:
    if target.exists() and not overwrite:
        raise InvalidInputError(f"{target}: is already there; add --overwrite to replace it")
    if target.exists() and source.exists() and target.samefile(source):
        raise InvalidInputError(f"{target}: is the file to convert; choose another place")
