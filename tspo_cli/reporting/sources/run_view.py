"""What a report reads from disk: training runs in any state, and evaluations of a model by a
method.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tspo_cli import runs
from tspo_cli.errors import InvalidInputError, MissingResourceError


@dataclass(frozen=True, slots=True)
class RunView:
    """One run directory, or one folder of `tspo eval`, under the name that the report gives it.

    `method` and `model` are set for an evaluation only: how it answered, and the model directory it
    answered with.
    """

    path: Path
    name: str
    config: dict[str, Any]
    status: dict[str, Any]
    command: str
    method: str = ""
    model: str = ""

    @property
    def is_evaluation(self) -> bool:
        """True for a folder of `tspo eval`, which has no training steps."""
        return bool(self.method)

    @property
    def algorithm(self) -> str:
        """The credit algorithm, sft for a run without one, or the method of an evaluation."""
        if self.is_evaluation:
            return self.method
        return (
            "sft"
            if self.config.get("kind") == "sft"
            else str(self.setting("credit.algorithm", "?"))
        )

    @property
    def state(self) -> str:
        """running, finished, failed, stopped, or unknown."""
        return str(self.status.get("state", "unknown"))

    def setting(self, key: str, default: Any = None) -> Any:
        """The value of a dotted configuration key, `default` where the run's file does not know
        it.
        """
        value: Any = self.config
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                return default
            value = value[part]
        return value

    def metrics(self) -> list[dict[str, Any]]:
        """One record per training step, so far."""
        return _steps(self.path / runs.METRICS_NAME)

    def timings(self) -> list[dict[str, Any]]:
        """Seconds per training step, so far."""
        return _steps(self.path / runs.TIMINGS_NAME)

    def environment(self) -> dict[str, Any]:
        """Versions and hardware, empty where nothing was recorded."""
        if self.is_evaluation:
            return dict(_object(self.path / runs.EVAL_SUMMARY_NAME).get("environment") or {})
        path = self.path / runs.ENVIRONMENT_NAME
        return _object(path) if path.exists() else {}

    def evaluation_folders(self) -> list[tuple[int, Path]]:
        """Where scores and items lie, as (step, folder); an evaluation is one folder, at step 0."""
        return [(0, self.path)] if self.is_evaluation else runs.eval_steps(self.path)

    def evaluations(self) -> list[tuple[int, dict[str, Any]]]:
        """All scores as (step, scores), by step and data set (of an evaluation in the order it was
        asked for).
        """
        if self.is_evaluation:
            summary = _object(self.path / runs.EVAL_SUMMARY_NAME)
            return [(0, scores) for scores in summary["results"]]
        return [
            (step, _object(path))
            for step, directory in self.evaluation_folders()
            for path in runs.scores_files(directory)
        ]

    def items_path(self, step: int, dataset: str) -> Path:
        """The file of the evaluated items of a data set at a step; it may be missing."""
        folder = dict(self.evaluation_folders()).get(step, runs.eval_folder(self.path, step))
        return runs.items_file(folder, dataset)


def open_run(path: Path, name: str | None = None) -> RunView:
    """The view of one run directory or evaluation folder.

    Raises:
        InvalidInputError: its configuration or status is not a JSON object.
        MissingResourceError: it is neither.
    """
    name = name or path.resolve().name
    if is_evaluation(path):
        return _open_evaluation(path, name)
    command = path / runs.COMMAND_NAME
    lines = command.read_text(encoding="utf-8").splitlines() if command.exists() else []
    status = path / runs.STATUS_NAME
    return RunView(
        path=path,
        name=name,
        config=_object(path / runs.CONFIG_NAME),
        status=_object(status) if status.exists() else {},
        command=lines[0] if lines else "",
    )


def is_evaluation(path: Path) -> bool:
    """True for a folder that `tspo eval` finished."""
    return not runs.is_run(path) and (path / runs.EVAL_SUMMARY_NAME).is_file()


def _open_evaluation(path: Path, name: str) -> RunView:
    file = path / runs.EVAL_SUMMARY_NAME
    summary = _object(file)
    results = summary.get("results")
    if not isinstance(results, list) or not all(isinstance(scores, dict) for scores in results):
        raise InvalidInputError(f"{file}: expected a list of scores under results")
    return RunView(
        path=path,
        name=name,
        config=summary.get("config") or {},
        status={"state": "finished"},
        command=str(summary.get("command", "")),
        method=str(summary.get("method") or "?"),
        model=str(summary.get("model", "")),
    )


def open_runs(paths: Sequence[Path]) -> list[RunView]:
    """All runs and evaluations at or below `paths`, runs first, named relative to what the paths
    have in common.

    Raises:
        MissingResourceError: a path does not exist or has nothing below it.
    """
    found: dict[Path, None] = {}
    for path in paths:
        found |= dict.fromkeys(one.resolve() for one in _below(path))
    ordered = sorted(found, key=lambda path: not runs.is_run(path))
    bases = [path.resolve().parent if _is_one(path) else path.resolve() for path in paths]
    base = Path(os.path.commonpath(bases))
    return [open_run(path, path.relative_to(base).as_posix()) for path in ordered]


def _is_one(path: Path) -> bool:
    return runs.is_run(path) or is_evaluation(path)


def _below(path: Path) -> list[Path]:
    if not path.exists():
        raise MissingResourceError(f"{path}: no such run directory")
    if _is_one(path):
        return [path]
    folders = sorted(file.parent for file in path.rglob(runs.CONFIG_NAME))
    summaries = sorted(path.rglob(runs.EVAL_SUMMARY_NAME))
    folders += [file.parent for file in summaries if is_evaluation(file.parent)]
    if not folders:
        raise MissingResourceError(
            f"{path}: no run or evaluation below it (a run holds {runs.CONFIG_NAME}, an evaluation "
            f"{runs.EVAL_SUMMARY_NAME})"
        )
    return folders


def unfinished(views: Iterable[RunView]) -> list[str]:
    """One sentence for every run that has not finished."""
    return [
        f"{view.name}: {view.state} at step {view.status.get('step', '?')} of "
        f"{view.setting('train.steps', '?')};"
        " shown as far as it got"
        for view in views
        if view.state != "finished"
    ]


def _object(path: Path) -> dict[str, Any]:
    value = runs.read_json(path)
    if not isinstance(value, dict):
        raise InvalidInputError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def _steps(path: Path) -> list[dict[str, Any]]:
    try:
        return runs.read_jsonl(path)
    except ValueError as error:
        raise InvalidInputError(f"{path}: not valid JSON lines ({error})") from None
