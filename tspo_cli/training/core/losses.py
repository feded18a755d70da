"""Losses per token, each token's share of the total, and what corrects rollouts of another policy:
pure functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from tspo_cli.config.schema import Config, LossConfig
from tspo_cli.credit.normalise import AllSum
from tspo_cli.training.core.sequences import TrainSequence


@dataclass(frozen=True, slots=True)
class PolicyLoss:
    """Per trained token [N]: the `total` to minimise, and its parts for the metrics."""

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
    pools: torch.Tensor | None = None,
    clip_scales: torch.Tensor | None = None,
) -> PolicyLoss:
    """-min(r A, clip(r, 1 - low, 1 + high) A) + kl * k3 - entropy * H, all [N].

    With `clip_scales` [N] the range of each token is [1 - s low, 1 + s high].

    r = exp(logprobs - old_logprobs); the clipped surrogate is PPO's (Schulman et al. 2017, eq. 7),
    used per token as in GRPO (Shao et al. 2024). With `pools` [N], the number of each token's
    sequence or turn, r is the geometric mean over the pool (GSPO, arXiv 2507.18071, eq. 7).
    dual_clip c bounds the loss of a negative advantage by c |A| (Ye et al. 2020, arXiv 1912.09729,
    eq. 5). k3 is Schulman's estimator of KL(policy, reference), see `k3`.
    """
    change = logprobs - old_logprobs
    ratio = (change if pools is None else pool_means(change, pools)).exp()
    low, high = config.clip_low, config.clip_high
    bounded = (
        ratio.clamp(1 - low, 1 + high)
        if clip_scales is None
        else ratio.clamp(1 - low * clip_scales, 1 + high * clip_scales)
    )
    policy = -torch.minimum(ratio * advantages, bounded * advantages)
    if config.dual_clip:
        policy = torch.where(
            advantages < 0, torch.minimum(policy, -config.dual_clip * advantages), policy
        )
    clipped = bounded * advantages < ratio * advantages
    kl = k3(logprobs, reference) if reference is not None else torch.zeros_like(logprobs)
    total = policy
    if reference is not None and config.kl_in == "loss":
        total = total + config.kl * kl
    if config.entropy:
        total = total - config.entropy * entropy
    return PolicyLoss(total, policy.detach(), kl.detach(), ratio.detach(), clipped.detach())


def pool_means(values: torch.Tensor, pools: torch.Tensor) -> torch.Tensor:
    """For each of the values [N] the mean over its pool; `pools` [N] counts from 0."""
    if not len(values):
        return values
    size = int(pools.max()) + 1
    sums = values.new_zeros(size).index_add(0, pools, values)
    counts = values.new_zeros(size).index_add(0, pools, torch.ones_like(values))
    return (sums / counts)[pools]


def clipped_value_loss(
    values: torch.Tensor, old_values: torch.Tensor, returns: torch.Tensor, clip: float
) -> torch.Tensor:
    """0.5 max((V - R)^2, (V_old + clip(V - V_old, -c, c) - R)^2), all [N]; without the second term
    where c is 0.
    """
    loss = (values - returns) ** 2
    if clip:
        clipped = old_values + (values - old_values).clamp(-clip, clip)
        loss = torch.maximum(loss, (clipped - returns) ** 2)
    return 0.5 * loss


def k3(logprobs: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """exp(d) - d - 1 with d = reference - logprobs: non-negative, and unbiased for the KL on the
    policy's own samples (Schulman 2020, "Approximating KL divergence").
    """
    difference = reference - logprobs
    return difference.exp() - difference - 1


def token_shares(
    sequences: Sequence[TrainSequence], aggregation: str, all_sum: AllSum, sum_length: int = 1
) -> list[list[float]]:
    """Each token's coefficient in the loss, [len(sequences)][T].

    token_mean: weight / sum of all weights. sequence_mean: weight / sum of the sequence's weights /
    number of sequences that have any. sequence_sum: weight / sum_length / that number. Sums and
    numbers are those of all processes, by `all_sum`. The shares of the first two add up to 1 over
    all processes. Where nothing is trained, all shares are 0.
    """
    sums = [sum(sequence.weights) for sequence in sequences]
    total, count = all_sum([sum(sums), sum(value > 0 for value in sums)])
    if aggregation == "sequence_mean":
        scales = [1 / (value * count) if value > 0 else 0.0 for value in sums]
    elif aggregation == "sequence_sum":
        scales = [1 / (sum_length * count) if value > 0 else 0.0 for value in sums]
    else:
        scales = [1 / total if total > 0 else 0.0] * len(sums)
    return [
        [weight * scale for weight in sequence.weights]
        for sequence, scale in zip(sequences, scales, strict=True)
    ]


@dataclass(frozen=True, slots=True)
class Correction:
    """How importance weights w = pi_old / mu become factors of the advantages.

    `kind`: none leaves them out, truncate cuts w at `cap`, mask sets w to 0 above `cap` and below 1
    / `cap`. `ratio`: one weight for each token, turn or sequence.
    """

    kind: Literal["none", "truncate", "mask"]
    ratio: Literal["token", "turn", "sequence"]
    cap: float

    def factor(self, weight: float) -> float:
        """What the advantage of a token with importance weight `weight` is multiplied by."""
        if self.kind == "none":
            return 1.0
        if self.kind == "mask":
            return weight if 1 / self.cap <= weight <= self.cap else 0.0
        return min(weight, self.cap)


def correction_of_stale(config: Config) -> Correction:
    """For rollouts of an earlier step's weights."""
    loss = config.loss
    return Correction(
        "mask" if loss.mismatch == "mask" else "truncate", loss.ratio, loss.importance_cap
    )


def correction_of_rounding(config: Config, *, bfloat16: bool) -> Correction | None:
    """For rollouts of the learner's own weights; None where the ratio compares with the engine."""
    loss = config.loss
    rounds = bfloat16 or config.rollout.engine != "transformers"
    kind = loss.mismatch
    if kind == "auto":
        kind = "truncate" if rounds and loss.old_logprobs != "engine" else "none"
    compares_pools = loss.ratio != "token" or config.train.updates_per_step > 1
    if (
        loss.old_logprobs == "learner"
        or kind != "none"
        or (loss.old_logprobs == "auto" and bfloat16 and compares_pools)
    ):
        return Correction(kind, loss.mismatch_ratio, loss.importance_cap)
    return None
