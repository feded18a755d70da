"""Means of per-item scores with standard errors and confidence intervals.

Scores are arrays [questions], or [seeds, questions] when several training seeds answered the same
questions. With several seeds, both seeds and questions count as random samples: standard errors are
clustered by seed and by question (Cameron, Gelbach and Miller 2011), and the bootstrap resamples
seeds and questions independently of each other (Owen 2007). Two or three seeds say little about
other seeds: the true uncertainty is then larger than the interval.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

Scores = npt.ArrayLike
Weighting = Literal["macro", "questions"]

CONFIDENCE = 0.95
RESAMPLES = 2000
BATCH_CELLS = 2_000_000
"""Random numbers in memory at once: 16 MB."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its uncertainty, in the unit of the scores.

    `se` is the standard error (None with fewer than two questions); `low` and `high` bound the
    percentile bootstrap interval. They are None where there is one question and one seed: nothing
    says how much that varies.
    """

    mean: float
    se: float | None
    low: float | None
    high: float | None
    questions: int
    seeds: int


def estimate(
    scores: Scores, *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Mean of scores [questions] or [seeds, questions]. Raises ValueError without any, or with NaN
    among them.
    """
    return average([scores], confidence=confidence, resamples=resamples, seed=seed)


def estimate_share(scores: Scores) -> Estimate:
    """`estimate` of scores from 0 to 1. If all scores of a single seed are alike, the bootstrap
    interval has no width, and Wilson's interval replaces it.
    """
    share = estimate(scores)
    if share.seeds == 1 and share.low == share.high:
        low, high = wilson(share.mean, share.questions)
        return replace(share, low=low, high=high)
    return share


def average_share(sets: Sequence[Scores], *, weighting: Weighting = "macro") -> Estimate:
    """`average` of scores from 0 to 1. If all scores of every set are alike, the bounds are the
    averages of the sets' Wilson bounds, which is wider than an interval of the average.
    """
    share = average(sets, weighting=weighting)
    if share.seeds == 1 and share.low == share.high:
        sizes = [np.size(scores) for scores in sets]
        bounds = [wilson(float(score_table(scores).mean()), np.size(scores)) for scores in sets]
        low, high = np.average(
            bounds, axis=0, weights=sizes if weighting == "questions" else None
        ).tolist()
        return replace(share, low=low, high=high)
    return share


def wilson(share: float, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a share of `n` items, n at least 1 (Wilson 1927).

    Of scores between 0 and 1 with the same mean, those that are 0 or 1 vary most: for others the
    interval is rather too wide.
    """
    squared = float(stats.norm.ppf(0.5 + CONFIDENCE / 2)) ** 2 / n
    middle = (share + squared / 2) / (1 + squared)
    half = math.sqrt(squared * (share * (1 - share) + squared / 4)) / (1 + squared)
    return (0.0 if share == 0 else middle - half), (1.0 if share == 1 else middle + half)


def average(
    sets: Sequence[Scores],
    *,
    weighting: Weighting = "macro",
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Average over data sets. `macro` gives each set the same weight, `questions` weighs a set by
    its size.

    The bootstrap resamples questions within their set. With several seeds, every set needs the same
    seeds in the same order: a seed is resampled for all sets together.

    Raises:
        ValueError: no set, an empty one, NaN, or sets with different numbers of seeds.
    """
    tables = [score_table(scores) for scores in sets]
    if not tables or len({len(table) for table in tables}) != 1:
        raise ValueError("expected at least one data set, all with the same number of seeds")
    sizes = np.array([table.shape[1] for table in tables], float)
    weights = (
        sizes / sizes.sum() if weighting == "questions" else np.full(len(sizes), 1 / len(sizes))
    )
    mean = float(sum(weight * table.mean() for weight, table in zip(weights, tables, strict=True)))
    low, high = _bootstrap(tables, weights, confidence, resamples, seed)
    return Estimate(
        mean, _standard_error(tables, weights), low, high, int(sizes.sum()), len(tables[0])
    )


def score_table(scores: Scores) -> npt.NDArray[np.float64]:
    """`scores` as an array [seeds, questions]. Raises ValueError without any, or with NaN."""
    table = np.atleast_2d(np.asarray(scores, float))
    if table.ndim != 2 or table.size == 0 or np.isnan(table).any():
        raise ValueError(
            "expected scores [questions] or [seeds, questions], at least one and none missing"
        )
    return table


def _standard_error(
    tables: Sequence[npt.NDArray[np.float64]], weights: npt.NDArray[np.float64]
) -> float | None:
    """Standard error over questions; with several seeds from the two-way clustered variance
    V_seed + V_question - V_cell.

    By chance that sum can be smaller than V_seed or V_question. The largest of the three is used,
    so that the error is rather too large than too small.
    """
    if any(table.shape[1] < 2 for table in tables):
        return None
    by_question = _combined_variance([table.mean(axis=0) for table in tables], weights)
    if len(tables[0]) == 1:
        return float(np.sqrt(by_question))
    per_seed = sum(
        weight * table.mean(axis=1) for weight, table in zip(weights, tables, strict=True)
    )
    by_seed = float(stats.sem(per_seed)) ** 2
    by_cell = _combined_variance([table.ravel() for table in tables], weights)
    return float(np.sqrt(max(by_question, by_seed, by_question + by_seed - by_cell)))


def _combined_variance(
    samples: Sequence[npt.NDArray[np.float64]], weights: npt.NDArray[np.float64]
) -> float:
    return float(
        sum(
            (weight * stats.sem(sample)) ** 2
            for weight, sample in zip(weights, samples, strict=True)
        )
    )


def _bootstrap(
    tables: Sequence[npt.NDArray[np.float64]],
    weights: npt.NDArray[np.float64],
    confidence: float,
    resamples: int,
    seed: int,
) -> tuple[float, float] | tuple[None, None]:
    """Percentile interval; None where nothing can be resampled. Resampled are the indices of the
    seeds and of each set's questions.
    """
    seeds = len(tables[0])
    positions = [np.arange(table.shape[1]) for table in tables]

    def statistic(*drawn: npt.NDArray[np.int64], axis: int = -1) -> npt.NDArray[np.float64]:
        chosen, questions = (drawn[0], drawn[1:]) if seeds > 1 else (np.zeros((1, 1), int), drawn)
        means = [
            table[chosen[..., :, None], columns[..., None, :]].mean(axis=(-2, -1))
            for table, columns in zip(tables, questions, strict=True)
        ]
        return np.tensordot(weights, np.stack(means), axes=1)

    samples = ([np.arange(seeds)] if seeds > 1 else []) + positions
    if all(len(sample) == 1 for sample in samples):
        return None, None
    done = stats.bootstrap(
        # A sample of one has nothing to resample, but scipy wants two.
        [sample if len(sample) > 1 else np.repeat(sample, 2) for sample in samples],
        statistic,
        vectorized=True,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        batch=max(1, BATCH_CELLS // (seeds * max(table.shape[1] for table in tables))),
        rng=np.random.default_rng(seed),
    )
    return float(done.confidence_interval.low), float(done.confidence_interval.high)
