"""How advantages depend on the number of turns where outcomes do not: a permutation test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tspo_cli.credit.group import GroupCredit

PERMUTATIONS = 999


@dataclass(frozen=True, slots=True)
class TurnCountEffect:
    """The effect of one arm: `slope` is the change of a rollout's mean advantage for each further
    turn, `correlation` that of mean advantage and number of turns (-1 to 1), both among rollouts of
    one question with the same outcome, and `p_value` (two-sided) that of their permutation.
    """

    slope: float
    correlation: float
    p_value: float
    rollouts: int

    def record(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "slope": self.slope,
            "correlation": self.correlation,
            "p_value": self.p_value,
            "rollouts": self.rollouts,
        }


@dataclass(slots=True)
class TurnCounts:
    """Rollouts of one question that have the same outcome in every arm (a stratum), where their
    numbers of turns differ: stratum, turns, and mean advantage in each arm.
    """

    strata: list[int] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    advantages: list[tuple[float, ...]] = field(default_factory=list)

    def add(self, credits: Sequence[GroupCredit]) -> None:
        """Count one group: its credit in each arm."""
        rollouts = list(zip(*(credit.trajectories for credit in credits), strict=True))
        by_outcome: dict[tuple[float, ...], list[int]] = {}
        for index, rollout in enumerate(rollouts):
            by_outcome.setdefault(tuple(arm.outcome for arm in rollout), []).append(index)
        for members in by_outcome.values():
            counts = [len(rollouts[index][0].advantages) for index in members]
            if len(set(counts)) < 2:
                continue
            stratum = self.strata[-1] + 1 if self.strata else 0
            self.strata += [stratum] * len(members)
            self.turns += counts
            self.advantages += [
                tuple(float(np.mean(arm.advantages)) for arm in rollouts[index])
                for index in members
            ]

    def effects(self, seed: int = 0) -> list[TurnCountEffect | None]:
        """The effect of each arm, None where no rollouts of equal outcome differ in their turns.

        The statistic is the covariance of turns and mean advantage within the strata. Numbers of
        turns are permuted within strata, 999 times, alike for all arms.
        """
        if not self.strata:
            return []
        strata = np.asarray(self.strata)
        turns = _centred(np.asarray(self.turns, dtype=np.float64)[:, None], strata)[:, 0]
        values = _centred(np.asarray(self.advantages, dtype=np.float64), strata)
        size = np.abs(np.asarray(self.advantages)).max(axis=0)
        values[np.abs(values) <= 1e-12 * np.maximum(size, 1.0)] = 0.0
        found = turns @ values
        random = np.random.default_rng(seed)
        reached = np.zeros(len(found))
        scale = np.sqrt((turns**2).sum() * (values**2).sum(axis=0))
        for _ in range(PERMUTATIONS):
            permuted = turns[np.lexsort((random.random(len(turns)), strata))]
            reached += np.abs(permuted @ values) >= np.abs(found) - 1e-12 * scale
        p_values = (1 + reached) / (1 + PERMUTATIONS)
        return [
            TurnCountEffect(
                slope=float(covariance / (turns**2).sum()),
                correlation=float(covariance / spread) if spread else 0.0,
                p_value=float(p_value),
                rollouts=len(turns),
            )
            for covariance, spread, p_value in zip(found, scale, p_values, strict=True)
        ]


def _centred(values: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """`values` [N, arms] less the means of their strata, which are numbered from 0."""
    sums = np.zeros((strata[-1] + 1, values.shape[1]))
    np.add.at(sums, strata, values)
    return values - (sums / np.bincount(strata)[:, None])[strata]
