"""What an algorithm is, and what the short files beside this one share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from tspo_cli.config.schema import CreditConfig
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory

Assign = Callable[[Sequence[JudgedTrajectory], CreditConfig], AlgorithmResult]
Needs = Literal["", "gold_logprobs", "critic"]


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One registry line.

    `assign` makes the credit of one group. `needs` is what only a model can give: gold
    log-probabilities, which `assign` finds in the trajectories, or a critic, whose values turn the
    turn rewards into advantages inside the training loop. `whiten`: advantages are standardised
    over all sampled tokens of the batch afterwards. `compares`: one rollout of a question alone
    teaches nothing.
    """

    assign: Assign
    needs: Needs = ""
    whiten: bool = False
    compares: bool = True


def outcomes_last(trajectories: Sequence[JudgedTrajectory]) -> tuple[tuple[float, ...], ...]:
    """Turn rewards of an algorithm that knows outcomes alone: each shown at the last turn, where it
    is earned.
    """
    return tuple((0.0,) * (one.turns - 1) + (one.outcome,) for one in trajectories)


def spread(
    values: Sequence[float], trajectories: Sequence[JudgedTrajectory]
) -> tuple[tuple[float, ...], ...]:
    """One value per trajectory, at each of its turns."""
    return tuple((value,) * one.turns for value, one in zip(values, trajectories, strict=True))
