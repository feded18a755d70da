"""CARL (arXiv 2605.27788): a turn earns the difference of a critic's values at its borders.

Equation: A_k = V(s_{k+1}) - V(s_k) for turn k, and A_K = y - V(s_K) for the last one, with s_k what
is known before turn k and y the outcome. The abstract says so in words ("segments"); the formula is
inferred. It is generalised advantage estimation with turns for steps (critic.steps), lambda 0 and
gamma 1, so that the advantages of a rollout add up to y - V(s_1), for any number of turns.

Ours: the critic learns the outcome itself (critic.target), and advantages are not standardised.
Another paper of the name, which updates actions of high entropy alone (2512.04949), is not this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tspo_cli.credit.algorithms.algorithm import algorithm
from tspo_cli.credit.algorithms.by_turn.ppo import ppo
from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory


@algorithm(
    defaults={
        "critic.steps": "turn",
        "critic.lam": 0.0,
        "critic.target": "rewards_to_go",
        "critic.whiten": False,
    },
    needs="critic",
    compares=False,
)
def carl(trajectories: Sequence[JudgedTrajectory], config: CreditConfig) -> AlgorithmResult:
    """Turn rewards only: the critic of the training loop turns them into advantages."""
    return replace(
        ppo(trajectories, config),
        reason="CARL's advantages are differences of a critic's values at the borders of turns.",
        formula="Advantage = value after the turn, or the outcome, less the value before it.",
    )
