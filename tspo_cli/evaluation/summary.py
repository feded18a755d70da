"""Intervals of scores, averages over data sets, and latencies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from tspo_cli.evaluation.item_record import ItemRecord
from tspo_cli.evaluation.statistics.estimates import Estimate, average_share, estimate_share

INTERVALS: tuple[Literal["em", "f1", "sub_em"], ...] = ("em", "f1", "sub_em")


def with_intervals(scores: dict[str, Any], items: Sequence[ItemRecord]) -> dict[str, Any]:
    """Add the standard error (`em_se`) and the 95 % bootstrap interval (`em_low`, `em_high`) of em,
    f1 and sub_em to `scores`. If all items are 0, or all are 1, the interval is Wilson's.
    """
    return scores | {
        f"{name}_{part}": value
        for name in INTERVALS
        for part, value in _parts(estimate_share([item[name] for item in items])).items()
    }


def averages(sets: Sequence[Sequence[ItemRecord]]) -> dict[str, dict[str, Any]]:
    """Averages with intervals: `macro` weights every data set equally, `questions` every
    question.
    """
    result: dict[str, dict[str, Any]] = {"macro": {}, "questions": {}}
    for name in INTERVALS:
        scores = [[item[name] for item in items] for items in sets]
        for weighting, estimate in (
            ("macro", average_share(scores, weighting="macro")),
            ("questions", average_share(scores, weighting="questions")),
        ):
            result[weighting] |= {
                name: estimate.mean,
                **{f"{name}_{part}": x for part, x in _parts(estimate).items()},
            }
    return result


def latency(seconds: Sequence[float]) -> dict[str, float]:
    """Seconds per question from its first prompt to its last token, including the time that it
    waits for the rest of its batch.
    """
    median, p95 = np.percentile(seconds, [50, 95])
    return {
        "mean": float(np.mean(seconds)),
        "p50": float(median),
        "p95": float(p95),
        "sum": float(np.sum(seconds)),
    }


def _parts(estimate: Estimate) -> dict[str, float | None]:
    return {"se": estimate.se, "low": estimate.low, "high": estimate.high}
