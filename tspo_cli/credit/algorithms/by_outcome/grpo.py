"""GRPO (Shao et al. 2024, arXiv 2402.03300): compare the outcomes of a group's trajectories; every
turn of a trajectory has the same advantage.

Equation: A_i = (y_i - mean y) / (std y + eps) over the group, at every token of trajectory i.
Defaults: unbiased standard deviation and eps 1e-6, as in Search-R1 and verl; scale = "none" leaves
the standard deviation out. The loss is PPO's clipped surrogate; the paper takes means over
sequences (loss.aggregation = "sequence_mean"), Search-R1 over tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

from tspo_cli.credit.algorithms.algorithm import algorithm, outcomes_last
from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory
from tspo_cli.credit.normalise import per_trajectory


@algorithm()
def grpo(trajectories: Sequence[JudgedTrajectory], config: CreditConfig) -> AlgorithmResult:
    """A_i = (y_i - mean y) / (std y + eps)."""
    reason = "GRPO compares the outcomes of whole trajectories, whatever their turns found."
    outcomes = [trajectory.outcome for trajectory in trajectories]
    turns = [trajectory.turns for trajectory in trajectories]
    advantages, populations = per_trajectory(outcomes, turns, config)
    return AlgorithmResult(
        outcomes_last(trajectories), advantages, "trajectory", populations, reason
    )
