"""GRPO (Shao et al. 2024, arXiv 2402.03300): the outcome against the group's others, the same for
every turn.

Equation: A_i = (y_i - mean y) / (std y + eps) over the group, at every token of trajectory i.
Defaults: unbiased standard deviation and eps 1e-6, as in Search-R1 and verl; scale = "none" leaves
the standard deviation out. The loss is PPO's clipped surrogate; the paper takes means over
sequences (loss.aggregation = "sequence_mean"), Search-R1 over tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from tspo_cli.config.schema import CreditConfig
from tspo_cli.credit.algorithms.algorithm import outcomes_last
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory
from tspo_cli.credit.normalise import per_trajectory


def grpo(trajectories: Sequence[JudgedTrajectory], config: CreditConfig) -> AlgorithmResult:
    """A_i = (y_i - mean y) / (std y + eps)."""
    reason = "GRPO compares the outcomes of whole trajectories, whatever their turns found."
    outcomes = [one.outcome for one in trajectories]
    advantages, populations = per_trajectory(outcomes, [one.turns for one in trajectories], config)
    return AlgorithmResult(
        outcomes_last(trajectories), advantages, "trajectory", populations, reason
    )
