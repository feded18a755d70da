"""The folder of `tspo eval`: one process writes it, and `--overwrite` keeps the old evaluation
until the new one is whole.

FOLDER/.new/    the evaluation that replaces the one in FOLDER, until it is finished
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tspo_cli.disk import delete, one_writer
from tspo_cli.errors import InvalidInputError, TspoError, UsageError
from tspo_cli.overwriting import is_temporary, shown_names
from tspo_cli.plain_files import open_plain, require_folder, require_writable_name
from tspo_cli.record_digests import DIGESTS_NAME, digests_in, note_digests
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
from tspo_cli.training.launch.claim import FILLED_FOLDERS, REPLACED_FOLDERS

_NEW = ".new"
_RECORDS = re.compile(r"[^/]+\.(?:json|jsonl|jsonl\.gz)|\..+\.tmp")
"""What an evaluation that is being written has."""
_JOURNAL = b'{"signature": '
"""How the answers of an unfinished evaluation begin (`Journal`)."""
_FOLDERS_OF_A_RUN = {*REPLACED_FOLDERS, *FILLED_FOLDERS}
_OTHER_OUT = "move them to another place, or choose another --out"


@contextmanager
def results_folder(folder: Path, *, resume: bool, overwrite: bool) -> Iterator[Path]:
    """Give the folder to write the evaluation into, and keep other evaluations out of `folder`
    until the block ends. A new evaluation takes the place of an old one when its summary is
    written.

    Raises:
        UsageError: both `resume` and `overwrite`.
        InvalidInputError: another process evaluates into `folder`, or it is a run or one of its
            folders, a world, an index or a model, or it holds an evaluation and neither flag was
            given, or what it holds is damaged, or files of the user's would be deleted, or none can
            be at this path.
    """
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other")
    require_writable_name(folder)
    if folder.exists() and not folder.is_dir():
        raise InvalidInputError(f"{folder}: exists and is no directory; choose another --out")
    if is_run(folder):  # a data set called status would replace the status of the run
        raise InvalidInputError(f"{folder}: is the directory of a run; choose another --out")
    _require_outside_records(folder)
    with one_writer(folder, "evaluating into it"):
        _delete_temporaries(folder)
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
            _require_only_ours(folder)
            delete(new)
        yield new if begun and (overwrite or new.exists()) else folder
        _settle(folder)
        note_digests(folder / EVAL_SUMMARY_NAME)


def require_its_sets(folder: Path, names: Collection[str]) -> None:
    """Raises InvalidInputError where an evaluation of the data sets `names` would leave a set out
    that the summary in the folder has.
    """
    summary = folder / EVAL_SUMMARY_NAME
    results = _summary(summary)["results"] if summary.exists() else []
    left = [scores["dataset"] for scores in results if scores["dataset"] not in names]
    if left:
        raise InvalidInputError(
            f"{summary}: has {shown_names(left)} too, which it would lose; name all of its data "
            "sets with --data, or choose another --out"
        )


def _summary(path: Path) -> dict[str, Any]:
    record: dict[str, Any] = checked(SUMMARY, read_json(path), str(path))
    return record


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


def _require_outside_records(folder: Path) -> None:
    """A run keeps its own evaluations, models and logs in folders that a run that replaces it
    deletes.
    """
    place = folder.resolve()
    for run in place.parents:
        if is_run(run) and (name := place.relative_to(run).parts[0]) in _FOLDERS_OF_A_RUN:
            raise InvalidInputError(
                f"{folder}: lies in {name}/ of the run {run}, which the run writes; choose another "
                "--out"
            )


def _require_only_ours(folder: Path) -> None:
    """Raises InvalidInputError where a new evaluation would delete or replace what no evaluation
    wrote.
    """
    ours = _names_of_ours(folder)
    written = [*folder.glob("*.json"), *(path for _, path in items_files(folder))]
    foreign = [path.name for path in written if ours is not None and path.name not in ours]
    foreign += [path.name for path in folder.glob("*.partial.jsonl") if not _is_journal(path)]
    inside = sorted((folder / _NEW).iterdir()) if (folder / _NEW).exists() else []
    foreign += [
        f"{_NEW}/{path.name}"
        for path in inside
        if path.is_dir() or not _RECORDS.fullmatch(path.name)
    ]
    if foreign:
        raise InvalidInputError(
            f"{folder}: holds files that no evaluation wrote and that would be deleted ("
            f"{shown_names(sorted(foreign))}); {_OTHER_OUT}"
        )


def _names_of_ours(folder: Path) -> set[str] | None:
    """The scores and items of the evaluation in the folder, by its digests, its summary and what it
    has begun. None where neither of the first two can be read: then all may be.
    """
    names = {EVAL_SUMMARY_NAME, EVAL_TIMINGS_NAME}
    for path in folder.glob("*.partial.jsonl"):
        begun = path.name.removesuffix(".partial.jsonl")
        names |= {file(folder, begun).name for file in (scores_file, items_file)}
    known = False
    with suppress(TspoError):
        digests = digests_in(folder)
        known = bool(digests)
        names |= {*digests}
    with suppress(TspoError):
        summary = folder / EVAL_SUMMARY_NAME
        for scores in _summary(summary)["results"]:
            names |= {file(folder, scores["dataset"]).name for file in (scores_file, items_file)}
        known = True
    return names if known else None


def _is_journal(path: Path) -> bool:
    """True for the answers of an unfinished evaluation, also where the first of them is cut."""
    with open_plain(path) as handle:
        start = handle.read(len(_JOURNAL))
    return _JOURNAL.startswith(start)


def _delete_temporaries(folder: Path) -> None:
    """Delete what killed processes were writing. Folders in it may have other writers."""
    require_folder(folder / _NEW, own=True)
    for place in (folder, folder / _NEW):
        for path in filter(is_temporary, place.glob(".*.tmp")):
            if not path.is_dir():
                path.unlink()


def _settle(folder: Path) -> None:
    """Put a finished new evaluation in the place of the old one, or go on with that. Its digests
    move when all of their files are there; its summary, which says what belongs to it, last.
    """
    new = folder / _NEW
    require_folder(new, own=True)
    summary = new / EVAL_SUMMARY_NAME
    if not summary.exists():
        return
    names = [scores["dataset"] for scores in _summary(summary)["results"]]
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
