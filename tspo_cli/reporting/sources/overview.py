"""Runs at a glance, one in full, and what differs between two."""

from __future__ import annotations

from typing import Any

from tspo_cli import runs
from tspo_cli.reporting.sources.run_view import RunView


def summary(view: RunView) -> dict[str, Any]:
    """One line of a listing: settings, state, and exact match of the last evaluation by data
    set.
    """
    return {
        "run": view.name,
        "algorithm": view.algorithm,
        "seed": view.setting("seed"),
        "state": view.state,
        "step": view.status.get("step"),
        "steps": None if view.is_evaluation else view.setting("train.steps"),
        "em": {dataset: scores.get("em") for dataset, scores in end_scores(view).items()},
    }


def details(view: RunView) -> dict[str, Any]:
    """Everything about a run that fits a screen."""
    metrics, model = view.metrics(), view.path / runs.MODEL_NAME
    return summary(view) | {
        "path": str(view.path),
        "command": view.command,
        "method": view.method or None,
        "attempts": view.status.get("attempt"),
        "seconds": sum(record.get("total") or 0.0 for record in view.timings()),
        "config": view.config,
        "environment": view.environment(),
        "metrics": metrics[-1] if metrics else {},
        "evaluations": [{"step": step, **scores} for step, scores in view.evaluations()],
        "checkpoints": [folder.name for folder in runs.checkpoint_folders(view.path)],
        "model": view.model or (str(model) if model.is_dir() else None),
    }


def difference(first: RunView, second: RunView) -> dict[str, dict[str, list[Any]]]:
    """{"config": {key: [a, b]}, "metrics": {name: [a, b]}}: configuration keys that differ, and all
    end metrics.

    Of evaluations the configuration includes method, model, and the digests of what a result
    depends on. Metrics are those of the last training step, and the scores of the last evaluation
    as data set/name. A value that one side lacks is None.
    """
    a, b = _told(first), _told(second)
    ends = [_end_metrics(first), _end_metrics(second)]
    return {
        "config": {
            key: [a.get(key), b.get(key)]
            for key in dict.fromkeys([*a, *b])
            if a.get(key) != b.get(key)
        },
        "metrics": {
            key: [end.get(key) for end in ends] for key in dict.fromkeys([*ends[0], *ends[1]])
        },
    }


def _told(view: RunView) -> dict[str, Any]:
    """What tells a run or evaluation from others, as dotted keys."""
    if not view.is_evaluation:
        return flat(view.config)
    digests = {dataset: scores.get("digests") or {} for dataset, scores in end_scores(view).items()}
    return {
        "method": view.method,
        "model": view.model,
        **flat(view.config),
        **flat({"digests": digests}),
    }


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys."""
    out: dict[str, Any] = {}
    for key, value in config.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return out


def end_scores(view: RunView) -> dict[str, dict[str, Any]]:
    """The scores of the last evaluation by data set."""
    evaluations = view.evaluations()
    end = max((step for step, _ in evaluations), default=0)
    return {str(scores.get("dataset")): scores for step, scores in evaluations if step == end}


def _end_metrics(view: RunView) -> dict[str, Any]:
    scores = {
        f"{dataset}/{name}": value
        for dataset, own in end_scores(view).items()
        for name, value in own.items()
        if isinstance(value, int | float)
    }
    metrics = view.metrics()
    return scores | (metrics[-1] if metrics else {})
