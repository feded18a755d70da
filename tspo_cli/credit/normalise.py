"""From rewards to advantages: subtract the mean of a population, divide by its standard deviation
(U8, U9).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from tspo_cli.credit.credit_section import CreditConfig

Rewards = Sequence[Sequence[float]]
AllSum = Callable[[Sequence[float]], list[float]]
"""Element-wise sums over all training processes; `list` where there is one."""
_ROUNDING = 1e-12
"""Values are equal if they differ by no more than this, or this times the largest of them."""


class Normalised(NamedTuple):
    """Advantages by trajectory and turn, and the populations whose mean and standard deviation they
    come from.
    """

    advantages: tuple[tuple[float, ...], ...]
    populations: tuple[tuple[float, ...], ...]


def standardise(values: Sequence[float], config: CreditConfig) -> list[float]:
    """(value - mean) / (std + eps) with the unbiased std (std biased: divided by n), or only
    centred (scale none).

    A population of one, or one whose values are equal up to rounding, gives exact zeros.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size < 2 or np.ptp(array) <= _ROUNDING * max(1.0, float(np.abs(array).max())):
        return [0.0] * array.size
    centred = array - array.mean()
    if config.scale == "none":
        return centred.tolist()
    return (centred / (array.std(ddof=int(config.std == "unbiased")) + config.eps)).tolist()


def per_trajectory(
    rewards: Sequence[float], turns: Sequence[int], config: CreditConfig
) -> Normalised:
    """One reward per trajectory, as in GRPO: its advantage holds for each of the trajectory's
    turns.
    """
    values = standardise(rewards, config)
    advantages = tuple((value,) * count for value, count in zip(values, turns, strict=True))
    return Normalised(advantages, (tuple(rewards),))


def pooled_turns(rewards: Rewards, config: CreditConfig) -> Normalised:
    """All turns of all trajectories form one population."""
    population = tuple(chain.from_iterable(rewards))
    values = iter(standardise(population, config))
    return Normalised(tuple(tuple(next(values) for _ in row) for row in rewards), (population,))


def per_turn_index(rewards: Rewards, config: CreditConfig) -> Normalised:
    """The k-th turns of those trajectories that have one form a population, for each k."""
    populations = tuple(
        tuple(row[index] for row in rewards if len(row) > index)
        for index in range(max(map(len, rewards)))
    )
    columns = [iter(standardise(population, config)) for population in populations]
    return Normalised(
        tuple(tuple(next(columns[index]) for index in range(len(row))) for row in rewards),
        populations,
    )


def batch_mean_and_scale(
    values: Sequence[tuple[int, float]], eps: float, all_sum: AllSum, *, unbiased: bool = True
) -> tuple[float, float]:
    """Mean, and 1 / (std + eps), of the tokens of a batch: `values` are (tokens, value of each of
    them), and `all_sum` adds those of the other processes.

    The scale is 0 where all values are equal up to rounding, so that (value - mean) * scale gives
    exact zeros.
    """
    count, total = all_sum(
        [sum(tokens for tokens, _ in values), math.fsum(n * value for n, value in values)]
    )
    mean = total / max(count, 1)
    squares = all_sum([math.fsum(n * (value - mean) ** 2 for n, value in values)])[0]
    deviation = math.sqrt(squares / max(count - unbiased, 1))
    scale = 0.0 if deviation <= _ROUNDING * max(1.0, abs(mean)) else 1.0 / (deviation + eps)
    return mean, scale
