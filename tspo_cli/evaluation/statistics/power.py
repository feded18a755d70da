"""Power of a paired comparison: how many questions a difference needs (two-sided paired t-test)."""

from __future__ import annotations

import numpy as np


def questions_needed(
    deviation: float, difference: float = 0.03, *, alpha: float = 0.05, power: float = 0.8
) -> int | None:
    """Number of questions at which a paired t-test at level `alpha` finds a true `difference` of
    means with probability `power`.

    `deviation` is the standard deviation of the paired differences. None if it is 0.
    """
    from statsmodels.stats.power import TTestPower

    if deviation == 0:
        return None
    size = TTestPower().solve_power(effect_size=difference / deviation, alpha=alpha, power=power)
    return int(np.ceil(np.asarray(size).item()))


def detectable_difference(
    deviation: float, questions: int, *, alpha: float = 0.05, power: float = 0.8
) -> float | None:
    """The smallest true difference that a test on `questions` finds with probability `power`; None
    if `deviation` is 0 or there are fewer than two questions.
    """
    from statsmodels.stats.power import TTestPower

    if deviation == 0 or questions < 2:
        return None
    effect = TTestPower().solve_power(nobs=questions, alpha=alpha, power=power)
    return float(np.asarray(effect).item() * deviation)
