"""GRPO (Shao et al. 2024, arXiv 2402.03300): the outcome against the group's others, the same for every turn."""

from __future__ import annotations

from collections.abc import Sequence

from tspo_cli.config.schema import CreditConfig
from tspo_cli.credit.group import Credit, Judged
from tspo_cli.credit.normalise import per_trajectory


def grpo(trajectories: Sequence[Judged], config: CreditConfig) -> Credit:
    """A_i = (y_i - mean y) / (std y + eps); the reward is shown at the last turn, where it is earned."""
    outcomes = [trajectory.outcome for trajectory in trajectories]
    turns = [trajectory.turns for trajectory in trajectories]
    rewards = tuple((0.0,) * (count - 1) + (outcome,) for outcome, count in zip(outcomes, turns, strict=True))
    reason = "GRPO compares the outcomes of whole trajectories, whatever their turns found."
    advantages, populations = per_trajectory(outcomes, turns, config)
    return Credit(rewards, advantages, "trajectory", populations, reason)
