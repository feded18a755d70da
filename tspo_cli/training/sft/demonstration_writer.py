"""Write demonstrations, in the form that `read_demonstrations` reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tspo_cli.data.question import Question
from tspo_cli.data.writers import question_record
from tspo_cli.disk import atomic_write_text
from tspo_cli.errors import InvalidInputError
from tspo_cli.runs import write_jsonl_gz
from tspo_cli.text.strict_json import json_text
from tspo_cli.training.core.sequences import ScriptedTurn
from tspo_cli.training.sft.demonstration_file import holds_own_demonstrations

ENDINGS = (".jsonl", ".jsonl.gz")
_FIELDS = ("id", "question", "golden_answers", "data_source", "supporting_ids")


def demonstration_record(
    question: Question, turns: Sequence[ScriptedTurn], imperfect: str = ""
) -> dict[str, Any]:
    """A line of a demonstration file. `imperfect` names a deliberate mistake."""
    known = question_record(question)
    record = {name: known[name] for name in _FIELDS}
    if imperfect:
        record["imperfect"] = imperfect
    return record | {"turns": [_turn_record(turn) for turn in turns]}


def _turn_record(turn: ScriptedTurn) -> dict[str, Any]:
    record: dict[str, Any] = {"text": turn.text}
    if turn.hits:
        record["passages"] = [{"id": hit.id, "contents": hit.contents} for hit in turn.hits]
    if turn.shown is not None:
        record["shown"] = turn.shown
    if turn.is_invalid:
        record["invalid"] = True
    return record


def check_target(path: Path, *, overwrite: bool) -> None:
    """Refuse a name that is none of a JSONL file, a file that is there, and to replace one that
    holds something else than demonstrations: questions, say, or rollouts.

    Raises:
        InvalidInputError: any of these.
    """
    if not path.name.endswith(ENDINGS):
        raise InvalidInputError(
            f"{path}: expected a name that ends in .jsonl or .jsonl.gz; rename the output"
        )
    if not path.exists():
        return
    if not overwrite:
        raise InvalidInputError(f"{path}: is already there; add --overwrite to replace it")
    if path.stat().st_size and not holds_own_demonstrations(path):
        raise InvalidInputError(
            f"{path}: holds no demonstrations of tspo, so it is not replaced; choose another --out"
        )


def write_demonstrations(path: Path, records: Sequence[dict[str, Any]], *, overwrite: bool) -> None:
    """Write the records as JSONL, whole or not at all; gzipped if the name ends in .gz. Raises as
    `check_target` does: making them may have taken hours, and the file is there now.
    """
    check_target(path, overwrite=overwrite)
    if path.suffix == ".gz":
        write_jsonl_gz(path, records)
    else:
        atomic_write_text(path, "".join(json_text(record) + "\n" for record in records))
