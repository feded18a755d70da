"""The folder of `tspo eval`: one process writes it, and `--overwrite` keeps the old evaluation
until the new one is whole.

FOLDER/.new/    the evaluation that replaces the one in FOLDER, until it is finished
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tspo_cli.disk import delete, one_writer
from tspo_cli.errors import InvalidInputError, UsageError
from tspo_cli.plain_files import require_folder, require_writable_name
from tspo_cli.record_digests import DIGESTS_NAME, note_digests
from tspo_cli.record_forms import SUMMARY, checked
from tspo_cli.runs import (
    EVAL_SUMMARY_NAME,
    EVAL_TIMINGS_NAME,
    is_run,
    items_file,
    items_files,
    read_json,
    scores_file,
)

_NEW = ".new"


@contextmanager
def results_folder(folder: Path, *, resume: bool, overwrite: bool) -> Iterator[Path]:
    """Give the folder to write the evaluation into, and keep other evaluations out of `folder`
    until the block ends. A new evaluation takes the place of an old one when its summary is
    written.

    Raises:
        UsageError: both `resume` and `overwrite`.
        InvalidInputError: another process evaluates into `folder`, or it is a run, a world, an
            index or a model, or it holds an evaluation and neither flag was given, or what it holds
            is damaged, or none can be at this path.
    """
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other")
    require_writable_name(folder)
    if folder.exists() and not folder.is_dir():
        raise InvalidInputError(f"{folder}: exists and is no directory; choose another --out")
    if is_run(folder):  # a data set called status would replace the status of the run
        raise InvalidInputError(f"{folder}: is the directory of a run; choose another --out")
    with one_writer(folder, "evaluating into it"):
        _settle(folder)
        begun = _is_begun(folder)
        if begun and not (resume or overwrite):
            raise InvalidInputError(
                f"{folder}: already holds an evaluation; add --resume to continue it, --overwrite "
                "to replace it, or choose another --out"
            )
        if not begun:
            _require_no_other_records(folder)
        new = folder / _NEW
        if overwrite or not begun:
            delete(new)
        yield new if begun and (overwrite or new.exists()) else folder
        _settle(folder)
        note_digests(folder / EVAL_SUMMARY_NAME)


def _is_begun(folder: Path) -> bool:
    return (
        (folder / EVAL_SUMMARY_NAME).exists()
        or any(folder.glob("*.partial.jsonl"))
        or bool(items_files(folder))
    )


def _require_no_other_records(folder: Path) -> None:
    """A data set may have the name of one: world, config, manifest."""
    others = sorted({*folder.glob("*.json")} - {folder / EVAL_TIMINGS_NAME})
    if others:
        raise InvalidInputError(
            f"{folder}: has other files than an evaluation ({others[0].name}); choose another --out"
        )


def _settle(folder: Path) -> None:
    """Put a finished new evaluation in the place of the old one, or go on with that. Its digests
    move when all of their files are there; its summary, which says what belongs to it, last.
    """
    new = folder / _NEW
    require_folder(new, own=True)
    summary = new / EVAL_SUMMARY_NAME
    if not summary.exists():
        return
    record = checked(SUMMARY, read_json(summary), str(summary))
    names = [scores["dataset"] for scores in record["results"]]
    ours = {folder / EVAL_SUMMARY_NAME, folder / EVAL_TIMINGS_NAME}
    ours |= {path(folder, name) for name in names for path in (scores_file, items_file)}
    digests = new / DIGESTS_NAME
    if digests.exists():
        (folder / DIGESTS_NAME).unlink(missing_ok=True)
    for path in new.iterdir():
        if path not in (summary, digests):
            os.replace(path, folder / path.name)
    items = {path for _, path in items_files(folder)}
    before = items | {folder / f"{name}.json" for name, _ in items_files(folder)}
    for path in {*before, *folder.glob("*.partial.jsonl")} - ours:
        path.unlink(missing_ok=True)
    if digests.exists():
        os.replace(digests, folder / DIGESTS_NAME)
    os.replace(summary, folder / EVAL_SUMMARY_NAME)
    new.rmdir()
