"""What a path is where a run directory was expected, and what to do with it."""

from __future__ import annotations

import os
from pathlib import Path

from tspo_cli import runs
from tspo_cli.errors import MissingResourceError
from tspo_cli.plain_files import why_missing

SWEEP_NAME = "sweep.json"
MANIFEST_NAME = "manifest.json"
_OTHERS = {
    runs.EVAL_SUMMARY_NAME: "an evaluation; read it with tspo report, or go on with tspo eval",
    SWEEP_NAME: "a sweep; name one of the runs in it, or see them all with tspo report",
    MANIFEST_NAME: "an index; tspo index verify checks it",
    "config.json": "a model; tspo plan says what it needs",
}
"""What other directories of ours are, by a file that they have."""
_PARTS = (
    *(runs.EVALUATIONS_NAME, runs.ROLLOUTS_NAME, runs.CHECKPOINTS_NAME, runs.BEST_NAME),
    *(runs.BEST_CHECKPOINTS_NAME, runs.LOGS_NAME, runs.JUDGE_NAME),
)
"""Folders of a run that are nothing of their own."""
UNFINISHED = "an unfinished evaluation; go on with the same tspo eval and --resume"
_MOST_NAMES = 8


def is_unfinished_evaluation(folder: Path) -> bool:
    """True for a folder in which `tspo eval` began and has not written its summary."""
    if run_around(folder) is not None:
        return False
    begun = any(folder.glob("*.partial.jsonl")) or bool(runs.items_files(folder))
    return begun and not (folder / runs.EVAL_SUMMARY_NAME).exists()


def run_around(path: Path) -> Path | None:
    """The run directory that `path`, one of its folders or below one, is a part of."""
    given = path.parents  # by which it is named, where they reach so far
    for place, run in enumerate(path.absolute().parents):
        # (A path that is too long cannot be looked at.)
        if (
            os.path.exists(run / runs.CONFIG_NAME)
            and path.absolute().relative_to(run).parts[0] in _PARTS
        ):
            return given[place] if place < len(given) else run
    return None


def not_a_run(path: Path, wanted: str = "a run directory") -> str:
    """What `path`, which is no run directory, is, in words that follow its name, and what to name
    instead: something `wanted`.
    """
    if not path.is_dir():
        if path.exists():
            return f"not a directory; name {wanted}"
        return f"{why_missing(path, 'no such directory')}; check the path"
    run = run_around(path)
    if run is not None:
        return f"not a run directory but a part of one; name {run}"
    if is_unfinished_evaluation(path):
        return f"not a run directory but {UNFINISHED}"
    if runs.is_run(path / runs.REPLACED_NAME):
        return (
            f"no run now: tspo train --overwrite was killed here; it kept the old run in "
            f"{runs.REPLACED_NAME}, and the next tspo train with this --out puts that back"
        )
    for name, what in _OTHERS.items():
        if (path / name).is_file():
            return f"not a run directory but {what}"
    children = sorted(path.iterdir())
    for what, inside in (
        ("runs", [child.name for child in children if runs.is_run(child)]),
        (
            "evaluations",
            [
                child.name
                for child in children
                if (child / runs.EVAL_SUMMARY_NAME).is_file()
                or (child.is_dir() and is_unfinished_evaluation(child))
            ],
        ),
    ):
        if inside:
            more = ", ..." if len(inside) > _MOST_NAMES else ""
            names = f"{', '.join(inside[:_MOST_NAMES])}{more}"
            return f"not a run directory; it holds {what} ({names}); name one of them"
    if any((path / name).exists() for name in (runs.STATUS_NAME, runs.CHECKPOINTS_NAME)):
        return f"{runs.CONFIG_NAME} is missing; put back a copy, without it nothing can go on"
    return f"not a run directory (it has no {runs.CONFIG_NAME}); name {wanted}"


def require_run(path: Path) -> None:
    """Raises MissingResourceError, which says what `path` is, unless it is a run directory."""
    if not runs.is_run(path):
        raise MissingResourceError(f"{path}: {not_a_run(path)}")


def model_directory(model: str, *, hosted: bool = False) -> Path:
    """The directory with the weights: `model` itself, or model/ of a run. What a server calls a
    `hosted` model may be the name of any folder here, such as that of its evaluation.

    Raises:
        MissingResourceError: a folder of runs, or the run has not exported its model.
        InvalidInputError: its status is damaged.
    """
    path = Path(model)
    if not runs.is_run(path):
        if not hosted and path.is_dir() and not any(path.glob("*.json")):
            raise MissingResourceError(f"{path}: {not_a_run(path, 'a run or a model')}")
        return path
    folder = path / runs.MODEL_NAME
    if not folder.is_dir():
        state = runs.read_status(path)["state"]
        raise MissingResourceError(
            f"{path}: this run has no model/ yet ({state}); finish it with tspo train --resume"
        )
    return folder
