"""DAPO (Yu et al. 2025, arXiv 2503.14476): GRPO's advantages with another loss and another batch.

Equation: A_i as GRPO; J = 1 / (sum of |o_i|) sum min(r A, clip(r, 1 - 0.2, 1 + 0.28) A), under the
condition that a group has right and wrong answers. Defaults of the experiment with this algorithm:
loss.clip_low 0.2, loss.clip_high 0.28 (clip-higher), loss.dual_clip 10, loss.aggregation
"token_mean", no KL, and rollout.dynamic_sampling: groups without an advantage are replaced by
further rollouts, at most rollout.max_refills times. Overlong shaping is credit.overlong_limit,
overlong_buffer and overlong_penalty (off by default: a search rollout is bounded by its turns
already).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tspo_cli.config.schema import CreditConfig
from tspo_cli.credit.algorithms.grpo import grpo
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory


def dapo(trajectories: Sequence[JudgedTrajectory], config: CreditConfig) -> AlgorithmResult:
    """A_i = (y_i - mean y) / (std y + eps); what is DAPO's own is in the loss and the batch."""
    reason = (
        "DAPO's advantages are GRPO's; groups of equal outcomes are replaced where "
        "rollout.dynamic_sampling is on."
    )
    return replace(grpo(trajectories, config), reason=reason)
