"""Statistics over training runs (seeds, worlds): t intervals, paired t-tests, area under a curve.

`statistics` compares per-item scores of questions; here every value is one run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Mean:
    """Mean of `n` values with its 95 % t interval; the interval is None for one value."""

    n: int
    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class Paired:
    """Mean difference over `n` pairs, its 95 % t interval and the p-value of the paired t-test.

    Interval and p are None for one pair; p is 1 where all differences are 0.
    """

    n: int
    mean: float
    low: float | None
    high: float | None
    p: float | None


def mean_interval(values: Sequence[float]) -> Mean:
    """Mean and 95 % t interval (Student 1908) of at least one value."""
    from scipy.stats import ttest_1samp

    mean = sum(values) / len(values)
    if len(values) < 2:
        return Mean(len(values), mean, None, None)
    if min(values) == max(values):
        return Mean(len(values), mean, mean, mean)
    interval = ttest_1samp(values, 0.0).confidence_interval(CONFIDENCE)
    return Mean(len(values), mean, float(interval.low), float(interval.high))


def paired_difference(pairs: Sequence[tuple[float, float]]) -> Paired:
    """Mean of first minus second over at least one pair, with the paired t-test."""
    from scipy.stats import ttest_rel

    differences = [first - second for first, second in pairs]
    mean = mean_interval(differences)
    if mean.low is None:
        return Paired(mean.n, mean.mean, None, None, None)
    if min(differences) == max(differences):
        return Paired(mean.n, mean.mean, mean.low, mean.high, 1.0 if mean.mean == 0 else 0.0)
    p = float(ttest_rel([first for first, _ in pairs], [second for _, second in pairs]).pvalue)
    return Paired(mean.n, mean.mean, mean.low, mean.high, p)


def area_under_curve(curve: Sequence[tuple[int, float]]) -> float | None:
    """Area under (step, value) points by the trapezoidal rule, divided by the number of steps.

    None for fewer than two points.
    """
    from scipy.integrate import trapezoid

    steps = [step for step, _ in curve]
    if len(steps) < 2:
        return None
    return float(trapezoid([value for _, value in curve], steps)) / (steps[-1] - steps[0])
