"""DAPO (Yu et al. 2025, arXiv 2503.14476): GRPO's advantages with another loss and another batch.

Equation: A_i as GRPO; J = 1 / (sum of |o_i|) sum min(r A, clip(r, 1 - 0.2, 1 + 0.28) A), under the
condition that a group has right and wrong answers. Its defaults below are clip-higher, dual clip,
a mean over tokens, and rollout.dynamic_sampling, which replaces groups without an advantage by
further rollouts, at most rollout.max_refills times; no KL. Overlong shaping is
credit.overlong_limit, overlong_buffer and overlong_penalty (off by default: the number of turns
already bounds a search rollout).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tspo_cli.credit.algorithms.algorithm import algorithm
from tspo_cli.credit.algorithms.by_outcome.grpo import grpo
from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory


@algorithm(
    defaults={
        "loss.clip_low": 0.2,
        "loss.clip_high": 0.28,
        "loss.dual_clip": 10.0,
        "loss.aggregation": "token_mean",
        "rollout.dynamic_sampling": True,
    }
)
def dapo(trajectories: Sequence[JudgedTrajectory], config: CreditConfig) -> AlgorithmResult:
    """A_i = (y_i - mean y) / (std y + eps); what DAPO changes is the loss and the batch."""
    reason = (
        "DAPO's advantages are GRPO's; groups of equal outcomes are replaced where "
        "rollout.dynamic_sampling is on."
    )
    return replace(grpo(trajectories, config), reason=reason)
