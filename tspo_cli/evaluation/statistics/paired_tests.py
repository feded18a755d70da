"""Paired comparison of two systems on the same questions: tests, correction, effect and power.

Scores are arrays as in `statistics`: [questions], or [seeds, questions].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from tspo_cli.evaluation.statistics.estimates import (
    BATCH_CELLS,
    RESAMPLES,
    Estimate,
    Scores,
    estimate,
    score_table,
)
from tspo_cli.evaluation.statistics.power import detectable_difference, questions_needed

PERMUTATIONS = 9999
_TIES = 10
"""Decimals to which scores and their sums are compared: two sums that should both be 2/3 can differ
in their last bits.
"""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Scores minus baseline on the same questions.

    `relative_gain` is the difference as a share of the baseline's mean (None if that is 0).
    `p_mcnemar` is for scores of 0 and 1 and a single seed, else None. The `_holm` values are
    corrected over the data sets compared together. `questions_needed` is the number of questions
    that a difference of 3 points needs at 80 % power, `detectable` the smallest difference that
    these questions show at that power; both are None if the two sides never differ.
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


def paired_permutation(
    scores: Scores, baseline: Scores, *, permutations: int = PERMUTATIONS, seed: int = 0
) -> float:
    """Two-sided p-value of the paired permutation test of the difference of means (Fisher's
    randomisation test).

    Under the null hypothesis either system could have given either score of a question. Several
    seeds are averaged first: the question is the unit. The test is exact if the number of
    assignments is at most `permutations` + 1.
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
        # Among `count` differences of the same size, the number with a plus sign is binomial. This
        # takes far fewer draws than a sign for every question.
        pluses = rng.binomial(counts, 0.5, (size[0], len(counts)))
        return ((2 * pluses - counts) @ sizes).round(_TIES)[:, None]

    done = stats.monte_carlo_test(
        [changed.sum().round(_TIES)],
        null_sums,
        lambda sums, axis: sums.sum(axis=axis),
        vectorized=True,
        n_resamples=permutations,
        batch=max(1, BATCH_CELLS // len(counts)),
    )
    return float(done.pvalue)


def mcnemar(scores: Scores, baseline: Scores) -> float:
    """Two-sided exact p-value of McNemar's test (1947) on scores [questions] of 0 and 1.

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
    """p-value of McNemar's test from the numbers of questions that only one side answers correctly;
    1 if there are none.
    """
    from statsmodels.stats.contingency_tables import mcnemar as exact_test

    return float(exact_test([[0, won], [lost, 0]], exact=True).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for testing all of them at once (Holm 1979), in the given order.

    statsmodels' `multipletests` gives the same, and collects the garbage of the whole process at
    every call, which takes up to a second.
    """
    values = np.asarray(p_values, dtype=np.float64)
    order = values.argsort(kind="stable")
    steps = values[order] * np.arange(values.size, 0, -1)
    corrected = np.empty_like(values)
    corrected[order] = np.maximum.accumulate(steps).clip(max=1.0) if values.size else steps
    return [float(p) for p in corrected]


def relative_gain(score: float, baseline: float) -> float | None:
    """(score - baseline) / baseline, as papers print it; None if the baseline is 0."""
    return (score - baseline) / baseline if baseline else None


def paired_deviation(scores: Scores, baseline: Scores) -> float:
    """Standard deviation of the paired differences, after averaging over seeds; 0 with fewer than
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
    """Compare both sides on one data set.

    If the numbers of seeds differ, each side is averaged over its own seeds, and the interval is
    over the questions only.

    Raises:
        ValueError: the numbers of questions differ or are 0, or a score is NaN.
    """
    first, second = score_table(scores), score_table(baseline)
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
    """`compare` for every data set that both sides have, with p-values corrected over these sets
    (Holm 1979).
    """
    compared = {
        name: compare(scores[name], baseline[name], **options)
        for name in scores
        if name in baseline
    }
    permutation = holm([comparison.p_permutation for comparison in compared.values()])
    tested = [name for name, comparison in compared.items() if comparison.p_mcnemar is not None]
    mcnemars = dict(
        zip(tested, holm([compared[name].p_mcnemar or 0.0 for name in tested]), strict=True)
    )
    return {
        name: replace(comparison, p_permutation_holm=p, p_mcnemar_holm=mcnemars.get(name))
        for (name, comparison), p in zip(compared.items(), permutation, strict=True)
    }


def _paired_difference(scores: Scores, baseline: Scores) -> npt.NDArray[np.float64]:
    first, second = score_table(scores).mean(axis=0), score_table(baseline).mean(axis=0)
    if first.shape != second.shape:
        raise ValueError(f"expected the same questions, got {first.size} and {second.size}")
    return first - second


def _is_binary(values: npt.NDArray[Any]) -> bool:
    return bool(np.isin(values, (0, 1)).all())
