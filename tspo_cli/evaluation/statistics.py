"""Honest comparison: intervals, paired tests, corrections and power, over plain arrays of per-item
scores.

Scores are [questions], or [seeds, questions] when several training seeds answered the same
questions. With several seeds both are taken as drawn: standard errors are clustered by seed and by
question (Cameron, Gelbach and Miller 2011), and the bootstrap draws seeds and questions anew,
independently of each other (Owen 2007). Few seeds carry little information about the seeds that
were not run: with two or three, read the interval as a lower bound of the doubt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from scipy import stats

Scores = npt.ArrayLike
Weighting = Literal["macro", "questions"]

CONFIDENCE = 0.95
RESAMPLES = 2000
PERMUTATIONS = 9999
_BATCH_CELLS = 2_000_000
"""Random numbers held at once: 16 MB."""
_TIES = 10
"""Decimals to which scores and their sums are compared: 2/3 comes out of different sums with
different last bits.
"""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean with its doubt, in the unit of the scores.

    `se` is the standard error (None with fewer than two questions); `low` and `high` bound the
    percentile bootstrap interval.
    """

    mean: float
    se: float | None
    low: float
    high: float
    questions: int
    seeds: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Scores minus baseline on the same questions.

    `relative_gain` is the difference as a share of the baseline's mean (None where that is 0).
    `p_mcnemar` is for yes/no scores of a single seed, else None; the `_holm` values are corrected
    over the data sets compared together. `questions_needed` is what a 3-point difference would take
    at 80 % power, `detectable` the difference that these questions can show at that power; both
    None where the two never differ.
    """

    difference: Estimate
    baseline_mean: float
    relative_gain: float | None
    p_permutation: float
    p_mcnemar: float | None
    p_permutation_holm: float
    p_mcnemar_holm: float | None
    questions_needed: int | None
    detectable: float | None


def estimate(
    scores: Scores, *, confidence: float = CONFIDENCE, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Mean of scores [questions] or [seeds, questions]. Raises ValueError without any, or with NaN
    among them.
    """
    return average([scores], confidence=confidence, resamples=resamples, seed=seed)


def estimate_share(scores: Scores) -> Estimate:
    """`estimate` of scores from 0 to 1. Of scores that are all 0 or all 1, resampling gives an
    interval without any width: with one seed it is then Wilson's.
    """
    found = estimate(scores)
    if found.seeds == 1 and found.mean in (0.0, 1.0):
        low, high = wilson(found.mean, found.questions)
        return replace(found, low=low, high=high)
    return found


def average_share(sets: Sequence[Scores], *, weighting: Weighting = "macro") -> Estimate:
    """`average` of scores from 0 to 1. Where all scores of all sets are alike it has the average of
    the sets' Wilson bounds, which is wider than an interval of the average.
    """
    found = average(sets, weighting=weighting)
    if found.seeds == 1 and found.mean in (0.0, 1.0):
        sizes = [np.size(scores) for scores in sets]
        bounds = [wilson(found.mean, size) for size in sizes]
        low, high = np.average(
            bounds, axis=0, weights=sizes if weighting == "questions" else None
        ).tolist()
        return replace(found, low=low, high=high)
    return found


def wilson(share: float, n: int) -> tuple[float, float]:
    """95 % Wilson score interval of a share of `n` items, of which there is at least one (Wilson
    1927).
    """
    interval = stats.binomtest(min(n, round(share * n)), n).proportion_ci(
        CONFIDENCE, method="wilson"
    )
    return float(interval.low), float(interval.high)


def average(
    sets: Sequence[Scores],
    *,
    weighting: Weighting = "macro",
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Estimate:
    """Average over data sets: macro gives each set the same weight, questions weighs a set by its
    size.

    Questions are resampled within their set. With several seeds every set needs the same ones, in
    the same order: a drawn seed is drawn for all sets.

    Raises:
        ValueError: no set, an empty one, NaN, or sets with different numbers of seeds.
    """
    tables = [_table(scores) for scores in sets]
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


def paired_permutation(
    scores: Scores, baseline: Scores, *, permutations: int = PERMUTATIONS, seed: int = 0
) -> float:
    """Two-sided p-value of the paired permutation test (Fisher's randomisation) of the difference
    of means.

    Under the null hypothesis either system could have given either score of a question. Several
    seeds are averaged first, so that the question stays the unit; exact where there are few enough
    assignments.
    """
    changed = _paired_difference(scores, baseline)
    # Equal scores add nothing under any assignment; leaving them out changes no p-value.
    changed = changed[changed.round(_TIES) != 0]
    if changed.size < 2:
        return 1.0
    if 2**changed.size <= permutations + 1:
        exact = stats.permutation_test(
            (changed,),
            lambda values, axis: values.sum(axis=axis),
            permutation_type="samples",
            n_resamples=np.inf,
        )
        return float(exact.pvalue)
    rng = np.random.default_rng(seed)
    sizes, counts = np.unique(np.abs(changed).round(_TIES), return_counts=True)

    def null_sums(size: tuple[int, ...]) -> npt.NDArray[np.float64]:
        # Of `count` differences of one size, how many get a plus is binomial: far fewer draws than
        # one per question.
        pluses = rng.binomial(counts, 0.5, (size[0], len(counts)))
        return ((2 * pluses - counts) @ sizes).round(_TIES)[:, None]

    done = stats.monte_carlo_test(
        [changed.sum().round(_TIES)],
        null_sums,
        lambda sums, axis: sums.sum(axis=axis),
        vectorized=True,
        n_resamples=permutations,
        batch=max(1, _BATCH_CELLS // len(counts)),
    )
    return float(done.pvalue)


def mcnemar(scores: Scores, baseline: Scores) -> float:
    """Two-sided exact p-value of McNemar's test (1947) on yes/no scores [questions].

    Raises:
        ValueError: scores other than 0 and 1, several seeds, or different questions.
    """
    first, second = np.asarray(scores), np.asarray(baseline)
    if (
        first.shape != second.shape
        or first.ndim != 1
        or not (_is_binary(first) and _is_binary(second))
    ):
        raise ValueError("McNemar's test takes 0 and 1 for the same questions, one seed")
    won, lost = int(np.sum(first > second)), int(np.sum(first < second))
    return mcnemar_p(won, lost)


def mcnemar_p(won: int, lost: int) -> float:
    """The same from the numbers of questions that only one side has right; 1 when there are
    none.
    """
    from statsmodels.stats.contingency_tables import mcnemar as exact_test

    return float(exact_test([[0, won], [lost, 0]], exact=True).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for testing all of them at once (Holm 1979), in the given order."""
    from statsmodels.stats.multitest import multipletests

    return (
        [float(p) for p in multipletests(list(p_values), method="holm")[1]] if len(p_values) else []
    )


def relative_gain(score: float, baseline: float) -> float | None:
    """(score - baseline) / baseline, as papers print it; None where the baseline is 0."""
    return (score - baseline) / baseline if baseline else None


def questions_needed(
    deviation: float, difference: float = 0.03, *, alpha: float = 0.05, power: float = 0.8
) -> int | None:
    """Questions at which a paired comparison shows a true `difference` of means with probability
    `power`.

    `deviation` is the standard deviation of the paired differences (two-sided paired t-test at
    level `alpha`); None where it is 0.
    """
    from statsmodels.stats.power import TTestPower

    if deviation == 0:
        return None
    size = TTestPower().solve_power(effect_size=difference / deviation, alpha=alpha, power=power)
    return int(np.ceil(np.asarray(size).item()))


def detectable_difference(
    deviation: float, questions: int, *, alpha: float = 0.05, power: float = 0.8
) -> float | None:
    """The smallest true difference that `questions` show with probability `power`; None where it is
    not defined.
    """
    from statsmodels.stats.power import TTestPower

    if deviation == 0 or questions < 2:
        return None
    effect = TTestPower().solve_power(nobs=questions, alpha=alpha, power=power)
    return float(np.asarray(effect).item() * deviation)


def paired_deviation(scores: Scores, baseline: Scores) -> float:
    """Standard deviation of the paired differences, several seeds averaged first; 0 with fewer than
    two questions.
    """
    difference = _paired_difference(scores, baseline)
    return float(difference.std(ddof=1)) if difference.size > 1 else 0.0


def compare(
    scores: Scores,
    baseline: Scores,
    *,
    permutations: int = PERMUTATIONS,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Everything about one data set. Both sides are [questions] or [seeds, questions] over the same
    questions.

    Where the numbers of seeds differ, each side is averaged over its own seeds, and the interval
    speaks of the questions alone.

    Raises:
        ValueError: different questions (another number of them), none at all, or NaN.
    """
    first, second = _table(scores), _table(baseline)
    averaged = _paired_difference(scores, baseline)
    difference = first - second if len(first) == len(second) else averaged
    deviation = paired_deviation(scores, baseline)
    base = float(second.mean())
    single = len(first) == len(second) == 1 and _is_binary(first) and _is_binary(second)
    p_permutation = paired_permutation(scores, baseline, permutations=permutations, seed=seed)
    p_mcnemar = mcnemar(first[0], second[0]) if single else None
    return Comparison(
        difference=estimate(difference, resamples=resamples, seed=seed),
        baseline_mean=base,
        relative_gain=relative_gain(float(first.mean()), base),
        p_permutation=p_permutation,
        p_mcnemar=p_mcnemar,
        p_permutation_holm=p_permutation,
        p_mcnemar_holm=p_mcnemar,
        questions_needed=questions_needed(deviation),
        detectable=detectable_difference(deviation, first.shape[1]),
    )


def compare_sets(
    scores: Mapping[str, Scores], baseline: Mapping[str, Scores], **options: Any
) -> dict[str, Comparison]:
    """`compare` for every data set that both have, with p-values corrected over these sets
    (Holm).
    """
    found = {
        name: compare(scores[name], baseline[name], **options)
        for name in scores
        if name in baseline
    }
    permutation = holm([one.p_permutation for one in found.values()])
    tested = [name for name, one in found.items() if one.p_mcnemar is not None]
    mcnemars = dict(
        zip(tested, holm([found[name].p_mcnemar or 0.0 for name in tested]), strict=True)
    )
    return {
        name: replace(one, p_permutation_holm=p, p_mcnemar_holm=mcnemars.get(name))
        for (name, one), p in zip(found.items(), permutation, strict=True)
    }


def _table(scores: Scores) -> npt.NDArray[np.float64]:
    """[seeds, questions]."""
    table = np.atleast_2d(np.asarray(scores, float))
    if table.ndim != 2 or table.size == 0 or np.isnan(table).any():
        raise ValueError(
            "expected scores [questions] or [seeds, questions], at least one and none missing"
        )
    return table


def _paired_difference(scores: Scores, baseline: Scores) -> npt.NDArray[np.float64]:
    first, second = _table(scores).mean(axis=0), _table(baseline).mean(axis=0)
    if first.shape != second.shape:
        raise ValueError(f"expected the same questions, got {first.size} and {second.size}")
    return first - second


def _is_binary(values: npt.NDArray[Any]) -> bool:
    return bool(np.isin(values, (0, 1)).all())


def _standard_error(
    tables: Sequence[npt.NDArray[np.float64]], weights: npt.NDArray[np.float64]
) -> float | None:
    """sem over questions; with several seeds the two-way clustered variance V_seed + V_question -
    V_cell.

    That sum can come out below its parts by chance: the largest of them is taken, which errs on the
    safe side.
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
        sum((weight * stats.sem(one)) ** 2 for weight, one in zip(weights, samples, strict=True))
    )


def _bootstrap(
    tables: Sequence[npt.NDArray[np.float64]],
    weights: npt.NDArray[np.float64],
    confidence: float,
    resamples: int,
    seed: int,
) -> tuple[float, float]:
    """Percentile interval. What is resampled are positions: of the seeds, and of the questions of
    each set.
    """
    seeds = len(tables[0])
    positions = [np.arange(table.shape[1]) for table in tables]

    def statistic(*drawn: npt.NDArray[np.int64], axis: int = -1) -> npt.NDArray[np.float64]:
        chosen, questions = (drawn[0], drawn[1:]) if seeds > 1 else (np.zeros((1, 1), int), drawn)
        means = [
            table[chosen[..., :, None], place[..., None, :]].mean(axis=(-2, -1))
            for table, place in zip(tables, questions, strict=True)
        ]
        return np.tensordot(weights, np.stack(means), axes=1)

    samples = ([np.arange(seeds)] if seeds > 1 else []) + positions
    if all(len(sample) == 1 for sample in samples):
        value = float(statistic(*(sample[None] for sample in samples))[0])
        return value, value
    done = stats.bootstrap(
        # A sample of one has nothing to resample, but scipy wants two.
        [sample if len(sample) > 1 else np.repeat(sample, 2) for sample in samples],
        statistic,
        vectorized=True,
        n_resamples=resamples,
        confidence_level=confidence,
        method="percentile",
        batch=max(1, _BATCH_CELLS // (seeds * max(table.shape[1] for table in tables))),
        rng=np.random.default_rng(seed),
    )
    return float(done.confidence_interval.low), float(done.confidence_interval.high)
