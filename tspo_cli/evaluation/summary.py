"""Scores with their doubt, averages over data sets, and latencies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from tspo_cli.evaluation.item_record import ItemRecord
from tspo_cli.evaluation.statistics import Estimate, average_share, estimate_share

INTERVALS: tuple[Literal["em", "f1", "sub_em"], ...] = ("em", "f1", "sub_em")


def with_intervals(scores: dict[str, Any], items: Sequence[ItemRecord]) -> dict[str, Any]:
    """`scores` and, for em, f1 and sub_em, their standard error (`em_se`) and 95 % bootstrap
    interval (`em_low`, `em_high`; Wilson's where all items are alike).
    """
    return scores | {
        f"{name}_{part}": value
        for name in INTERVALS
        for part, value in _parts(estimate_share([item[name] for item in items])).items()
    }


def averages(sets: Sequence[Sequence[ItemRecord]]) -> dict[str, dict[str, Any]]:
    """`macro` (every data set counts the same) and `questions` (every question does), with
    intervals as above.
    """
    result: dict[str, dict[str, Any]] = {"macro": {}, "questions": {}}
    for name in INTERVALS:
        scores = [[item[name] for item in items] for items in sets]
        for weighting, found in (
            ("macro", average_share(scores, weighting="macro")),
            ("questions", average_share(scores, weighting="questions")),
        ):
            result[weighting] |= {
                name: found.mean,
                **{f"{name}_{part}": x for part, x in _parts(found).items()},
            }
    return result


def latency(seconds: Sequence[float]) -> dict[str, float]:
    """Seconds per question from its first prompt to its last token, waiting for others in the batch
    included.
    """
    middle, late = np.percentile(seconds, [50, 95])
    return {
        "mean": float(np.mean(seconds)),
        "p50": float(middle),
        "p95": float(late),
        "sum": float(np.sum(seconds)),
    }


def _parts(found: Estimate) -> dict[str, float | None]:
    return {"se": found.se, "low": found.low, "high": found.high}
