"""RLOO (Ahmadian et al. 2024, arXiv 2402.14740): REINFORCE with the mean of the other trajectories
as the baseline.

Equation: A_i = y_i - mean of y_j over j != i = G / (G - 1) (y_i - mean y). Default: no standard
deviation.
"""

from __future__ import annotations

from collections.abc import Sequence

from tspo_cli.credit.algorithms.algorithm import algorithm, outcomes_last, repeat_over_turns
from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory
from tspo_cli.credit.normalise import standardise


@algorithm()
def rloo(trajectories: Sequence[JudgedTrajectory], config: CreditConfig) -> AlgorithmResult:
    """A_i = y_i - mean of the other y; 0 for a group of one."""
    outcomes = [trajectory.outcome for trajectory in trajectories]
    size = len(outcomes)
    centred = standardise(outcomes, config.model_copy(update={"scale": "none"}))
    advantages = [value * size / max(1, size - 1) for value in centred]
    return AlgorithmResult(
        outcomes_last(trajectories),
        repeat_over_turns(advantages, trajectories),
        "trajectory",
        (tuple(outcomes),),
        reason="RLOO compares the outcome of each trajectory with the mean of the others.",
        formula="Advantage = outcome - mean of the others' outcomes.",
    )
