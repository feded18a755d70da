"""From rewards to advantages: subtract the mean of a population, divide by its standard deviation (U8, U9)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np

from tspo_cli.config.schema import CreditConfig

Rewards = Sequence[Sequence[float]]
Advantages = tuple[tuple[float, ...], ...]


def standardise(values: Sequence[float], config: CreditConfig) -> list[float]:
    """(value - mean) / (std + eps) with the unbiased std, or only centred (scale none).

    A population of one, or one without variance, gives exact zeros.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.size < 2 or array.min() == array.max():
        return [0.0] * array.size
    centred = array - array.mean()
    return (centred / (array.std(ddof=1) + config.eps) if config.scale == "std" else centred).tolist()


def per_trajectory(rewards: Sequence[float], turns: Sequence[int], config: CreditConfig) -> Advantages:
    """One reward per trajectory, as in GRPO: its advantage holds for each of the trajectory's turns."""
    return tuple((value,) * count for value, count in zip(standardise(rewards, config), turns, strict=True))


def pooled_turns(rewards: Rewards, config: CreditConfig) -> Advantages:
    """All turns of all trajectories form one population."""
    pooled = iter(standardise(list(chain.from_iterable(rewards)), config))
    return tuple(tuple(next(pooled) for _ in row) for row in rewards)


def per_turn_index(rewards: Rewards, config: CreditConfig) -> Advantages:
    """The k-th turns of those trajectories that have one form a population, for each k."""
    columns = [
        iter(standardise([row[index] for row in rewards if len(row) > index], config))
        for index in range(max(map(len, rewards)))
    ]
    return tuple(tuple(next(columns[index]) for index in range(len(row))) for row in rewards)
