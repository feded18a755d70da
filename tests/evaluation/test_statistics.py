"""Statistics against scipy and statsmodels called directly, their false positives, and the laws
they keep.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import statsmodels.api as sm
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower

from tspo_cli.evaluation.statistics import estimates as statistics
from tspo_cli.evaluation.statistics import paired_tests, power

Array = npt.NDArray[np.float64]


def scores(seed: int, *shape: int, share: float = 0.4) -> Array:
    """Yes/no scores with a question effect, so that paired scores agree more often than by
    chance.
    """
    rng = np.random.default_rng(seed)
    hardness = np.random.default_rng(shape[-1]).normal(size=shape[-1])
    return (rng.normal(size=shape) + hardness < stats.norm.ppf(share) * np.sqrt(2)).astype(float)


def f1_like(seed: int, size: int) -> Array:
    rng = np.random.default_rng(seed)
    return rng.choice([0, 0.25, 0.4, 0.5, 2 / 3, 0.8, 1], size)


@pytest.mark.parametrize("values", [scores(1, 400), f1_like(2, 400)])
def test_mean_and_interval_are_scipys(values: Array) -> None:
    found = statistics.estimate(values, resamples=5000)
    assert found.mean == values.mean()
    assert found.se == pytest.approx(stats.sem(values), rel=1e-12)
    direct = stats.bootstrap(
        (values,), np.mean, n_resamples=5000, method="percentile", rng=np.random.default_rng(9)
    )
    assert found.low == pytest.approx(direct.confidence_interval.low, abs=0.004)
    assert found.high == pytest.approx(direct.confidence_interval.high, abs=0.004)
    assert (found.questions, found.seeds) == (400, 1)


def test_clustered_error_is_statsmodels() -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(size=(4, 60)) + rng.normal(size=60) + rng.normal(size=(4, 1))
    seed, question = np.indices(table.shape)
    fit = sm.OLS(table.ravel(), np.ones(table.size)).fit(
        cov_type="cluster", cov_kwds={"groups": np.column_stack([seed.ravel(), question.ravel()])}
    )
    found = statistics.estimate(table)
    assert found.se == pytest.approx(float(fit.bse[0]), rel=1e-9)
    assert found.seeds == 4
    naive = stats.sem(table.ravel())
    assert found.se > 2 * naive, "cells of one seed or one question are not independent"


def test_interval_over_seeds_is_wider_than_over_questions_alone() -> None:
    rng = np.random.default_rng(3)
    table = np.clip(
        rng.normal(0.4, 0.1, (5, 200)) + np.array([[-0.2], [-0.1], [0], [0.1], [0.2]]), 0, 1
    )
    both, alone = statistics.estimate(table), statistics.estimate(table.mean(axis=0))
    assert both.mean == pytest.approx(alone.mean)
    assert both.high - both.low > 3 * (alone.high - alone.low)


def test_permutation_test_is_scipys() -> None:
    for first, second in [
        (scores(1, 300), scores(2, 300, share=0.46)),
        (f1_like(1, 120), f1_like(3, 120)),
    ]:
        direct = stats.permutation_test(
            (first, second),
            lambda a, b, axis: (a - b).mean(axis=axis),
            permutation_type="samples",
            n_resamples=9999,
            rng=np.random.default_rng(4),
        )
        # Two independent draws of 9,999 permutations differ by about 0.005 where p is 0.5.
        assert paired_tests.paired_permutation(first, second) == pytest.approx(
            direct.pvalue, abs=0.02
        )


def test_permutation_test_is_exact_on_few_differences() -> None:
    first, second = np.array([1, 1, 1, 1, 0, 1, 0]), np.array([0, 0, 0, 0, 1, 1, 0])
    # Five changed, of 32 assignments 6 are at least as extreme upwards, as many downwards.
    assert paired_tests.paired_permutation(first, second) == pytest.approx(12 / 32)
    assert paired_tests.mcnemar(first, second) == pytest.approx(12 / 32)


def test_mcnemar_holm_and_power_are_statsmodels() -> None:
    first, second = scores(1, 500), scores(2, 500, share=0.45)
    table = [
        [np.sum((first == a) & (second == b)) for b in (0, 1)] for a in (0, 1)
    ]  # fmt: skip
    assert paired_tests.mcnemar(first, second) == pytest.approx(
        statsmodels_mcnemar(table, exact=True).pvalue
    )
    for p_values in ([0.01, 0.04, 0.03, 0.005], [0.2, 0.0, 1.0, 0.2, 0.01, 0.2], [0.7]):
        assert paired_tests.holm(p_values) == list(multipletests(p_values, method="holm")[1])
    assert paired_tests.holm([]) == []
    needed = power.questions_needed(0.5)
    assert needed == int(np.ceil(TTestPower().solve_power(effect_size=0.06, alpha=0.05, power=0.8)))
    assert 2000 < needed < 2300
    assert power.detectable_difference(0.5, needed) == pytest.approx(0.03, rel=1e-3)


def test_false_positives_of_the_paired_tests() -> None:
    """Which system a score belongs to is shuffled per question 1,000 times: 5 % +- 1.5 % come out
    below 0.05.
    """
    rng = np.random.default_rng(11)
    pool = (
        np.stack([scores(5, 400), scores(6, 400, share=0.55)]),
        np.stack([f1_like(5, 400), f1_like(6, 400)]),
    )
    p_values: dict[str, list[float]] = {"permutation em": [], "permutation f1": [], "mcnemar": []}
    for repetition in range(1000):
        swap = rng.random(400) < 0.5
        em, f1 = (np.where(swap, pair, pair[::-1]) for pair in pool)
        draw = {"permutations": 999, "seed": repetition}
        p_values["permutation em"].append(paired_tests.paired_permutation(*em, **draw))
        p_values["permutation f1"].append(paired_tests.paired_permutation(*f1, **draw))
        p_values["mcnemar"].append(paired_tests.mcnemar(*em))
    shares = {name: np.mean(np.array(values) < 0.05) for name, values in p_values.items()}
    assert all(0.035 <= share <= 0.065 for share in shares.values()), shares


def test_a_real_difference_is_found() -> None:
    found = paired_tests.compare(scores(1, 3000), scores(2, 3000, share=0.33))
    assert found.difference.mean == pytest.approx(0.07, abs=0.03)
    assert 0 < found.difference.low < found.difference.mean < found.difference.high
    assert found.p_permutation < 0.001
    assert found.p_mcnemar is not None
    assert found.p_mcnemar < 0.001
    assert found.relative_gain == pytest.approx(found.difference.mean / found.baseline_mean)
    assert found.detectable is not None
    assert found.detectable < 0.07


def test_comparison_of_sets_corrects_over_the_sets_they_share() -> None:
    mine = {
        "a": scores(1, 500),
        "b": scores(2, 500),
        "c": f1_like(3, 500),
        "only mine": scores(4, 9),
    }
    base = {
        "a": scores(5, 500, share=0.3),
        "b": scores(6, 500),
        "c": f1_like(7, 500),
        "only theirs": scores(8, 9),
    }
    found = paired_tests.compare_sets(mine, base)
    assert list(found) == ["a", "b", "c"]
    assert [comparison.p_permutation_holm for comparison in found.values()] == pytest.approx(
        multipletests([comparison.p_permutation for comparison in found.values()], method="holm")[1]
    )
    assert found["c"].p_mcnemar is found["c"].p_mcnemar_holm is None
    assert found["a"].p_mcnemar_holm == min(1, 2 * min(found["a"].p_mcnemar, found["b"].p_mcnemar))


def test_several_seeds_against_one() -> None:
    found = paired_tests.compare(scores(1, 3, 200), scores(2, 200))
    assert found.difference.seeds == 1
    assert found.p_mcnemar is None
    assert paired_tests.compare(scores(1, 3, 200), scores(2, 3, 200)).difference.seeds == 3


def test_averages() -> None:
    small, large = scores(1, 50, share=0.8), scores(2, 950, share=0.2)
    macro = statistics.average([small, large])
    weighted = statistics.average([small, large], weighting="questions")
    assert macro.mean == pytest.approx((small.mean() + large.mean()) / 2)
    assert weighted.mean == pytest.approx(np.concatenate([small, large]).mean())
    assert macro.se == pytest.approx(np.hypot(stats.sem(small), stats.sem(large)) / 2)
    assert macro.low < macro.mean < macro.high
    assert weighted.questions == 1000
    normal = stats.norm.interval(0.95, macro.mean, macro.se)
    assert (macro.low, macro.high) == pytest.approx(normal, abs=0.01)


def test_relative_gain() -> None:
    assert paired_tests.relative_gain(0.62, 0.5) == pytest.approx(0.24)
    assert paired_tests.relative_gain(0.1, 0.0) is None


@pytest.mark.parametrize("bad", [[], [float("nan"), 1.0], [[[1.0]]]])
def test_nothing_to_estimate(bad: list[object]) -> None:
    with pytest.raises(ValueError, match="expected scores"):
        statistics.estimate(bad)


def test_different_questions_are_not_compared() -> None:
    with pytest.raises(ValueError, match="same questions"):
        paired_tests.compare([1, 0, 1], [1, 0])
    with pytest.raises(ValueError, match="McNemar"):
        paired_tests.mcnemar([0.5, 1], [0, 1])
    with pytest.raises(ValueError, match="number of seeds"):
        statistics.average([[1, 0], [[1, 0], [0, 1]]])


def test_one_question_and_equal_scores() -> None:
    alone = statistics.estimate([1.0])
    assert (alone.mean, alone.se, alone.low, alone.high) == (1, None, None, None)
    changed = paired_tests.compare([1.0], [0.0])
    assert (changed.difference.low, changed.difference.high) == (None, None)
    assert (changed.p_permutation, changed.p_mcnemar) == (1, 1)
    same = paired_tests.compare([1, 0, 1], [1, 0, 1])
    assert (same.p_permutation, same.p_mcnemar, same.questions_needed, same.detectable) == (
        1,
        1,
        None,
        None,
    )


@pytest.mark.parametrize("scores", [[1.0], [0.0], [0.4], [0.5, 0.5], [0.25] * 30, [1.0] * 30])
def test_scores_that_are_alike_are_not_certain(scores: list[float]) -> None:
    share = statistics.estimate_share(scores)
    both = statistics.average_share([scores, scores])
    for found in (share, both):
        assert found.low is not None
        assert found.high is not None
        assert 0 <= found.low <= scores[0] <= found.high <= 1
        assert found.high - found.low > 0.1


binary = st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None)
@given(st.data(), binary)
def test_laws_of_paired_tests(data: st.DataObject, first: list[float]) -> None:
    second = data.draw(
        st.lists(st.sampled_from([0.0, 1.0]), min_size=len(first), max_size=len(first))
    )
    p = paired_tests.paired_permutation(first, second)
    assert 0 < p <= 1
    assert p == pytest.approx(paired_tests.paired_permutation(second, first)), "no side is special"
    order = data.draw(st.permutations(range(len(first))))
    assert p == pytest.approx(
        paired_tests.paired_permutation([first[i] for i in order], [second[i] for i in order])
    )
    assert p == pytest.approx(paired_tests.mcnemar(first, second)), (
        "on yes/no scores the two are one exact test"
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_laws_of_holm(p_values: list[float]) -> None:
    corrected = paired_tests.holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, corrected, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert list(np.array(corrected)[order]) == sorted(corrected), "the order of evidence stays"


def test_same_seed_same_figures() -> None:
    first, second = scores(1, 200), scores(2, 200)
    assert paired_tests.compare(first, second) == paired_tests.compare(first, second)
    uneven = np.random.default_rng(0).random(50)
    assert statistics.estimate(uneven, seed=1) != statistics.estimate(uneven, seed=2)
