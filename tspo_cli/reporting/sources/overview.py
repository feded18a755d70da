"""A run in one line, a run in full, and the differences of two runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tspo_cli import runs
from tspo_cli.config.tables import flatten
from tspo_cli.disk import reason
from tspo_cli.errors import InvalidInputError, TspoError
from tspo_cli.plain_files import cannot_be_read
from tspo_cli.reporting.sources.run_view import (
    RunView,
    examined_by_doctor,
    named_folders,
    open_run,
)
from tspo_cli.text.secrets import values_without_secrets


def summary(view: RunView) -> dict[str, Any]:
    """One line of a listing: settings, state, and EM of the last evaluation by data set. `failed`
    has the questions that count as wrong there because a search failed.
    """
    last = view.last_scores.items()
    return {
        "run": view.name,
        "algorithm": view.algorithm,
        "seed": view.setting("seed"),
        "state": view.state,
        "step": view.status.get("step"),
        "steps": None if view.is_evaluation else view.setting("train.steps"),
        "em": {dataset: scores.get("em") for dataset, scores in last},
        "failed": {dataset: scores["failed"] for dataset, scores in last if scores.get("failed")},
    }


def summaries(views: Sequence[RunView]) -> list[dict[str, Any]]:
    """One line per run. A run that was not evaluated in training has the EM of the first listed
    evaluation of its model.
    """
    return _scored(views, [summary(view) for view in views])


def _scored(views: Sequence[RunView], lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The lines of the views, with the EM of evaluations where a run has none."""
    evaluated: dict[Path, dict[str, Any]] = {}
    for view, line in zip(views, lines, strict=True):
        if view.model:
            evaluated.setdefault(Path(view.model).resolve(), line)
    for view, line in zip(views, lines, strict=True):
        other = evaluated.get((view.path / runs.MODEL_NAME).resolve())
        if not line["em"] and other is not None:
            line |= {name: other[name] for name in ("em", "failed")}
    return lines


def listing(directory: Path) -> tuple[list[dict[str, Any]], dict[str, TspoError]]:
    """The runs below a folder, a line each, and the errors of those that cannot be read, by name.

    Raises:
        MissingResourceError: it does not exist or holds no run and no evaluation.
    """
    views, lines = list[RunView](), list[dict[str, Any]]()
    unreadable: dict[str, TspoError] = {}
    for name, folder in named_folders([directory]).items():
        try:
            with examined_by_doctor([folder]):
                view = open_run(folder, name)
                lines.append(summary(view))
        except TspoError as failure:
            unreadable[name] = failure
        except OSError as failure:
            unreadable[name] = _refusal(failure)
        else:
            views.append(view)
    return _scored(views, lines), unreadable


def _refusal(error: OSError) -> TspoError:
    """An error of the operating system about one run."""
    unreadable = cannot_be_read(error)
    return InvalidInputError(unreadable) if unreadable else TspoError(reason(error))


def details(view: RunView) -> dict[str, Any]:
    """Everything about a run that fits a screen."""
    model = view.path / runs.MODEL_NAME
    return summary(view) | {
        "path": str(view.path),
        "command": view.command,
        "resumed": list(view.resumed),
        "method": view.method or None,
        "attempts": view.status.get("attempt"),
        "warnings": list(view.status.get("warnings") or []),
        "seconds": sum(record.get("total") or 0.0 for record in view.timings),
        "config": values_without_secrets(view.config),
        "environment": view.environment,
        "metrics": view.metrics[-1] if view.metrics else {},
        "evaluations": [{"step": step, **scores} for step, scores in view.evaluations],
        "checkpoints": [folder.name for folder in runs.checkpoint_folders(view.path)],
        "model": view.model or (str(model) if model.is_dir() else None),
    }


def difference(first: RunView, second: RunView) -> dict[str, dict[str, list[Any]]]:
    """The configuration keys that differ, and all metrics at the end of both runs.

    Returns {"config": {key: [a, b]}, "metrics": {name: [a, b]}}; a value that one side lacks is
    None. The metrics are those of the last training step, and the scores of the last evaluation as
    data set/name. The configuration of an evaluation includes its method, its model, and the
    digests of model, index, corpus and data.
    """
    a, b = _identity(first), _identity(second)
    a_metrics, b_metrics = _last_metrics(first), _last_metrics(second)
    keys = dict.fromkeys([*a, *b])
    names = dict.fromkeys([*a_metrics, *b_metrics])
    differ = {key: [a.get(key), b.get(key)] for key in keys if a.get(key) != b.get(key)}
    return {
        "config": values_without_secrets(differ),
        "metrics": {name: [a_metrics.get(name), b_metrics.get(name)] for name in names},
    }


def _identity(view: RunView) -> dict[str, Any]:
    """The settings, and for an evaluation also what answered and on which data, by dotted key."""
    if not view.is_evaluation:
        return flatten(view.config)
    digests = {dataset: scores.get("digests") or {} for dataset, scores in view.last_scores.items()}
    return {
        "method": view.method,
        "model": view.model,
        **flatten(view.config),
        **flatten({"digests": digests}),
    }


def _last_metrics(view: RunView) -> dict[str, Any]:
    scores = {
        f"{dataset}/{name}": value
        for dataset, recorded in view.last_scores.items()
        for name, value in recorded.items()
        if isinstance(value, int | float)
    }
    return scores | (view.metrics[-1] if view.metrics else {})
