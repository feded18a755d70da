"""What is wrong with a folder of `tspo eval`, and what to do about it. Nothing is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tspo_cli import runs
from tspo_cli.console import counted
from tspo_cli.disk import has_writer
from tspo_cli.errors import TspoError
from tspo_cli.not_a_run import UNFINISHED, is_unfinished_evaluation
from tspo_cli.record_forms import SUMMARY, checked
from tspo_cli.training.start.finding import Finding, advised, said_once
from tspo_cli.training.start.record_diagnosis import (
    check_digests,
    check_items,
    check_records,
    check_scores,
)

_ADVICE = "put back a copy, or evaluate again with --overwrite"


def is_evaluation_folder(folder: Path) -> bool:
    """True for a folder that `tspo eval` has written or begun, and for no run."""
    if runs.is_run(folder) or not folder.is_dir():
        return False
    return (folder / runs.EVAL_SUMMARY_NAME).exists() or is_unfinished_evaluation(folder)


def diagnose_evaluation(folder: Path) -> list[Finding]:
    """What is found in a folder of `tspo eval`, part by part."""
    others = (runs.EVAL_SUMMARY_NAME, runs.EVAL_TIMINGS_NAME)
    scores = [path for path in runs.scores_files(folder) if path.name not in others]
    items = [path for _, path in runs.items_files(folder)]
    checks: list[tuple[Path, Callable[[Path], Any]]] = [(path, check_scores) for path in scores]
    checks += [(path, check_items) for path in items]
    checks += [(path, runs.read_jsonl) for path in sorted(folder.glob("*.partial.jsonl"))]
    return said_once(
        [
            *_state(folder),
            *check_records(checks, _ADVICE),
            *check_digests({folder: [*scores, *items]}),
        ]
    )


def _state(folder: Path) -> Iterator[Finding]:
    if has_writer(folder) is True:
        yield Finding("evaluation", "ok", "a process evaluates into it now")
        return
    summary = folder / runs.EVAL_SUMMARY_NAME
    if not summary.exists():
        yield Finding("evaluation", "problem", UNFINISHED)
        return
    try:
        record = checked(SUMMARY, runs.read_json(summary), str(summary))
    except (TspoError, OSError) as error:
        yield Finding("evaluation", "problem", advised(error, _ADVICE))
        return
    sets = ", ".join(
        f"{scores['dataset']} ({counted(scores['n'], 'question')})" for scores in record["results"]
    )
    yield Finding("evaluation", "ok", f"finished: {record.get('method', '?')} on {sets}")
