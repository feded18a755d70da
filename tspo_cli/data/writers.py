"""Write questions and passages as JSONL, atomically; gzipped if the name ends in .gz."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tspo_cli.data.question import Passage, Question
from tspo_cli.disk import atomic_write_text
from tspo_cli.runs import write_jsonl_gz
from tspo_cli.text.strict_json import json_text


def write_questions(path: Path, questions: Iterable[Question]) -> int:
    """Write questions so that `read_questions` returns the same questions. Return their number."""
    return _write(path, map(question_record, questions))


def write_passages(path: Path, passages: Iterable[Passage]) -> int:
    """Write passages as `{"id", "contents"}`, the format of Search-R1 and FlashRAG. Return their
    number.
    """
    return _write(path, map(passage_record, passages))


def question_record(question: Question) -> dict[str, Any]:
    """The JSON form of a question: the known fields, then the extra fields."""
    record: dict[str, Any] = {
        "id": question.id,
        "question": question.question,
        "golden_answers": list(question.golden_answers),
        "data_source": question.data_source,
        "supporting_ids": list(question.supporting_ids),
        "gold_kind": question.gold_kind,
    }
    if question.type:
        record["type"] = question.type
    return record | {name: value for name, value in question.extra.items() if name not in record}


def passage_record(passage: Passage) -> dict[str, Any]:
    """The JSON form of a passage."""
    return {"id": passage.id, "contents": passage.contents}


def _write(path: Path, records: Iterable[dict[str, Any]]) -> int:
    rows = list(records)
    if path.suffix == ".gz":
        write_jsonl_gz(path, rows)
    else:
        atomic_write_text(path, "".join(json_text(record) + "\n" for record in rows))
    return len(rows)
