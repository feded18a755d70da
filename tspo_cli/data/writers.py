"""Write questions and passages as JSONL, gzipped where the name ends in .gz, whole or not at
all.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tspo_cli.data.question import Passage, Question
from tspo_cli.runs import atomic_write_text, write_jsonl_gz


def write_questions(path: Path, questions: Iterable[Question]) -> int:
    """Write questions in the form that `read_questions` gives back unchanged; returns their
    number.
    """
    return _write(path, map(question_record, questions))


def write_passages(path: Path, passages: Iterable[Passage]) -> int:
    """Write passages as `{"id", "contents"}`, the form of Search-R1's and FlashRAG's corpora;
    returns their number.
    """
    return _write(path, map(passage_record, passages))


def question_record(question: Question) -> dict[str, Any]:
    """The JSON form of a question: its own fields first, those that are empty left out, then the
    extra ones.
    """
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
    kept = list(records)
    if path.suffix == ".gz":
        write_jsonl_gz(path, kept)
    else:
        atomic_write_text(
            path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in kept)
        )
    return len(kept)
