"""Losses per token, and each token's share of the total. Pure functions of tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from tspo_cli.config.schema import LossConfig
from tspo_cli.training.batching import TrainSequence

AllSum = Callable[[Sequence[float]], list[float]]


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """Per trained token [N]: `total` to descend, and its parts for the log."""

    total: torch.Tensor
    policy: torch.Tensor
    kl: torch.Tensor
    ratio: torch.Tensor
    clipped: torch.Tensor


def clipped_policy_loss(
    logprobs: torch.Tensor,
    old_logprobs: torch.Tensor,
    advantages: torch.Tensor,
    entropy: torch.Tensor,
    reference: torch.Tensor | None,
    config: LossConfig,
) -> PolicyLoss:
    """-min(r A, clip(r, 1 - low, 1 + high) A) + kl * k3 - entropy * H, all [N].

    r = exp(logprobs - old_logprobs); the clipped surrogate is PPO's (Schulman et al. 2017, eq. 7), used per token as in
    GRPO (Shao et al. 2024). k3 is Schulman's estimator of KL(policy, reference), see `k3`.
    """
    ratio = (logprobs - old_logprobs).exp()
    bounded = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    policy = -torch.minimum(ratio * advantages, bounded * advantages)
    clipped = bounded * advantages < ratio * advantages
    kl = k3(logprobs, reference) if reference is not None else torch.zeros_like(logprobs)
    total = policy
    if reference is not None:
        total = total + config.kl * kl
    if config.entropy:
        total = total - config.entropy * entropy
    return PolicyLoss(total, policy.detach(), kl.detach(), ratio.detach(), clipped.detach())


def k3(logprobs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """exp(d) - d - 1 with d = reference - logprobs: non-negative, and unbiased for the KL on the policy's own samples
    (Schulman 2020, "Approximating KL divergence")."""
    difference = reference - logprobs
    return difference.exp() - difference - 1


def token_shares(sequences: Sequence[TrainSequence], aggregation: str, all_sum: AllSum) -> list[list[float]]:
    """Each token's coefficient in the loss, [len(sequences)][T], summing to 1 over all processes.

    token_mean: weight / sum of all weights. sequence_mean: weight / sum of the sequence's weights / number of sequences
    that have any. `all_sum` adds over the processes; all zeros where nothing is trained.
    """
    sums = [sum(one.weights) for one in sequences]
    total, count = all_sum([sum(sums), sum(value > 0 for value in sums)])
    if aggregation == "sequence_mean":
        scales = [1 / (value * count) if value > 0 else 0.0 for value in sums]
    else:
        scales = [1 / total if total > 0 else 0.0] * len(sums)
    return [[weight * scale for weight in one.weights] for one, scale in zip(sequences, scales, strict=True)]
