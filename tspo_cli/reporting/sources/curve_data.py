"""The numbers of learning curves: EM by step over an arm's seeds, and the classes of groups."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tspo_cli.credit.group import GROUP_METRICS
from tspo_cli.evaluation.statistics.estimates import wilson
from tspo_cli.reporting.sources.arms import Arm
from tspo_cli.reporting.sources.run_view import RunView

GROUP_CLASSES = tuple(
    (f"groups/{metric}", name.replace("all-", "all ")) for name, metric in GROUP_METRICS.items()
)
"""The metric of each group class, and its label in tables and figures."""


@dataclass(frozen=True, slots=True)
class SeedScore:
    """EM of one run at one step, with its 95 % interval over the questions."""

    em: float
    low: float
    high: float


def arm_datasets(arm: Arm) -> list[str]:
    """The data sets that any seed of an arm was evaluated on, in order."""
    names = (str(scores.get("dataset", "")) for view in arm.views for _, scores in view.evaluations)
    return list(dict.fromkeys(names))


def em_by_step(arm: Arm, dataset: str) -> list[tuple[int, list[SeedScore]]]:
    """(step, one score per seed) of an arm on a data set, by step."""
    by_step: dict[int, list[SeedScore]] = {}
    for view in arm.views:
        for step, scores in view.evaluations:
            em = scores.get("em")
            if scores.get("dataset") == dataset and em is not None and is_finite(em):
                low, high = em_interval(scores)
                score = SeedScore(em, em if low is None else low, em if high is None else high)
                by_step.setdefault(step, []).append(score)
    return sorted(by_step.items())


def em_interval(scores: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """The 95 % interval of an evaluation's EM over its questions, as it was recorded; Wilson's for
    an evaluation of a version that recorded none. None without questions.
    """
    low, high = scores.get("em_low"), scores.get("em_high")
    if low is not None and high is not None:
        return low, high
    em, n = scores.get("em"), int(scores.get("n") or 0)
    return wilson(em, n) if em is not None and n > 0 else (None, None)


def mean_low_high(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean, the lowest and the highest of the values."""
    return sum(values) / len(values), min(values), max(values)


def metric_points(records: Sequence[dict[str, Any]], key: str) -> tuple[tuple[float, float], ...]:
    """(step, value) of a metric, without the steps that have no finite value."""
    return tuple(
        (float(record["step"]), float(record[key]))
        for record in records
        if is_finite(record.get(key))
    )


def steps_with_classes(view: RunView) -> list[dict[str, Any]]:
    """The metrics of the steps that have the share of every group class."""
    return [
        record
        for record in view.metrics
        if all(is_finite(record.get(key)) for key, _ in GROUP_CLASSES)
    ]


def is_finite(value: Any) -> bool:
    """True for a number that is neither infinite nor NaN."""
    return isinstance(value, int | float) and math.isfinite(value)
