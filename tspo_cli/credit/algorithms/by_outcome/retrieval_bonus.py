"""GRPO with a near-miss bonus on the whole trajectory: the ablation of TSPO's turn-level placement.

Equation: R_i = y_i, or alpha (times the worth of the hit) for a wrong answer after the gold answer
was found; A_i = (R_i - mean R) / (std R + eps). It is the retrieval reward of Search-R1 v0.3 for
wrong answers (arXiv 2505.15117), which reports little effect. Default: alpha 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence

from tspo_cli.credit.algorithms.algorithm import algorithm
from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.folr import trajectory_reward
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory
from tspo_cli.credit.normalise import per_trajectory


@algorithm()
def retrieval_bonus(
    trajectories: Sequence[JudgedTrajectory], config: CreditConfig
) -> AlgorithmResult:
    """A_i = (R_i - mean R) / (std R + eps) with alpha for a near-miss."""
    scores = [trajectory_reward(trajectory, config) for trajectory in trajectories]
    turns = [trajectory.turns for trajectory in trajectories]
    rewards = tuple(
        (0.0,) * (count - 1) + (score,) for count, score in zip(turns, scores, strict=True)
    )
    advantages, populations = per_trajectory(scores, turns, config)
    reason = (
        f"Whole trajectories are compared; a near-miss earns {config.alpha:g}, wherever the "
        "answer was found."
    )
    return AlgorithmResult(rewards, advantages, "trajectory", populations, reason)
