"""GSPO (Zheng et al. 2025, arXiv 2507.18071): GRPO's advantages with a probability ratio of whole
sequences.

Equation: A_i as GRPO; s_i = exp(mean over sampled tokens of log pi - log pi_old), J = mean over i
of min(s_i A_i, clip(s_i, 1 - 3e-4, 1 + 4e-4) A_i); no KL. The defaults below are those of the
paper. For turn-level advantages (of any algorithm) loss.ratio = "turn" takes the mean over the
tokens of a turn instead.
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
        "loss.ratio": "sequence",
        "loss.clip_low": 3e-4,
        "loss.clip_high": 4e-4,
        "loss.aggregation": "sequence_mean",
    }
)
def gspo(trajectories: Sequence[JudgedTrajectory], config: CreditConfig) -> AlgorithmResult:
    """A_i = (y_i - mean y) / (std y + eps); what GSPO changes is the ratio in the loss."""
    reason = "GSPO's advantages are GRPO's; its own is the sequence ratio in the loss (loss.ratio)."
    return replace(grpo(trajectories, config), reason=reason)
