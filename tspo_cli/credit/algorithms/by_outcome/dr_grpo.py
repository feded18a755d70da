"""Dr. GRPO (Liu et al. 2025, arXiv 2503.20783): GRPO without its two biases.

Equation: A_i = y_i - mean y over the group. It does not divide by the standard deviation, which
favours questions that are too easy or too hard. Its default loss.aggregation = "sequence_sum" sums
token losses and divides by a constant (loss.sum_length) instead of each response's length, which
favours short correct and long wrong answers; no KL.
"""

from __future__ import annotations

from collections.abc import Sequence

from tspo_cli.credit.algorithms.algorithm import algorithm, outcomes_last
from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory
from tspo_cli.credit.normalise import per_trajectory


@algorithm(defaults={"loss.aggregation": "sequence_sum"})
def dr_grpo(trajectories: Sequence[JudgedTrajectory], config: CreditConfig) -> AlgorithmResult:
    """A_i = y_i - mean y, whatever credit.scale says."""
    centred = config.model_copy(update={"scale": "none"})
    outcomes = [trajectory.outcome for trajectory in trajectories]
    turns = [trajectory.turns for trajectory in trajectories]
    advantages, populations = per_trajectory(outcomes, turns, centred)
    return AlgorithmResult(
        outcomes_last(trajectories),
        advantages,
        "trajectory",
        populations,
        reason="Dr. GRPO compares the outcomes of whole trajectories and only centres them.",
        formula="Advantage = outcome - mean.",
    )
