"""From rewards to advantages: subtract the mean of a population, divide by its standard deviation
(U8, U9).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np

from tspo_cli.config.schema import CreditConfig

Rewards = Sequence[Sequence[float]]


class Normalised(NamedTuple):
    """Advantages by trajectory and turn, and the populations whose mean and standard deviation they
    come from.
    """

    advantages: tuple[tuple[float, ...], ...]
    populations: tuple[tuple[float, ...], ...]


def standardise(values: Sequence[float], config: CreditConfig) -> list[float]:
    """(value - mean) / (std + eps) with the unbiased std (std biased: divided by n), or only
    centred (scale none).

    A population of one, or one without variance, gives exact zeros.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size < 2 or array.min() == array.max():
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
