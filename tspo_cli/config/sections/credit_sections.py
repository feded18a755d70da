"""Sections of an experiment file: credit, the policy loss and the critic."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, create_model

from tspo_cli.config.sections.section import Section
from tspo_cli.credit.algorithms import ALGORITHMS
from tspo_cli.credit.credit_section import CreditConfig as SharedCreditConfig


def _with_algorithm_tables() -> type[SharedCreditConfig]:
    """[credit] with the names of all algorithms, and a table for each that has options."""
    names = ", ".join(ALGORITHMS)
    description = f"One of {names}; or FILE.py:function for one of your own."
    fields: dict[str, Any] = {
        "algorithm": (str, Field(next(iter(ALGORITHMS)), description=description))
    }
    for algorithm in ALGORITHMS.values():
        if algorithm.options is not None:
            fields[algorithm.table] = (algorithm.options, algorithm.options())
    return create_model("CreditConfig", __base__=SharedCreditConfig, __module__=__name__, **fields)


if TYPE_CHECKING:
    CreditConfig = SharedCreditConfig
else:
    CreditConfig = _with_algorithm_tables()


class LossConfig(Section):
    """U12: the policy loss."""

    ratio: Literal["token", "turn", "sequence"] = Field(
        "token",
        description=(
            "Probability ratio of each token, or its geometric mean over a turn or a sequence."
        ),
    )
    clip_low: float = Field(0.2, ge=0, description="Ratio is clipped below 1 - clip_low.")
    clip_high: float = Field(0.2, ge=0, description="Ratio is clipped above 1 + clip_high.")
    dual_clip: float = Field(
        0.0,
        ge=0,
        description=(
            "Upper bound of the loss of a token with negative advantage, times |advantage|. "
            "0: no bound."
        ),
    )
    old_logprobs: Literal["auto", "engine", "learner"] = Field(
        "auto",
        description=(
            "What the ratio compares with: the log-probs that the engine sampled with, or the "
            "learner's before the step's updates (one more forward pass). auto: learner where "
            "loss.mismatch corrects, and in bfloat16 for ratios of turns or sequences and for "
            "several updates a step; else engine."
        ),
    )
    mismatch: Literal["auto", "none", "truncate", "mask"] = Field(
        "auto",
        description=(
            "Importance weights learner / engine against different rounding. truncate: cut at "
            "importance_cap; mask: 0 above importance_cap and below 1 / importance_cap. auto: "
            "truncate in bfloat16 and with vLLM, none in float32 with transformers."
        ),
    )
    mismatch_ratio: Literal["token", "turn", "sequence"] = Field(
        "token",
        description=(
            "An importance weight for each token, or its geometric mean over a turn or a sequence. "
            "Stale rollouts (rollout.one_step_off) take loss.ratio."
        ),
    )
    importance_cap: float = Field(2.0, gt=0, description="Upper bound of an importance weight.")
    aggregation: Literal["token_mean", "sequence_mean", "sequence_sum"] = Field(
        "token_mean",
        description=(
            "token_mean: mean over all sampled tokens of the batch; sequence_mean: mean over "
            "sequences of their token means; sequence_sum: mean over sequences of their token "
            "sums, divided by sum_length."
        ),
    )
    sum_length: int = Field(
        0,
        ge=0,
        description="sequence_sum: constant divisor. 0: the most tokens a rollout may sample.",
    )
    kl: float = Field(
        0.0,
        ge=0,
        description="Weight of the k3 KL to the starting policy. 0: no reference model is kept.",
    )
    kl_in: Literal["loss", "reward"] = Field(
        "loss",
        description=(
            "Add the KL to the loss, or subtract it from each token's reward (only for algorithms "
            "with a critic, or that standardise over the batch)."
        ),
    )
    log_kl: bool = Field(
        False, description="Keep the starting policy and log the KL even if loss.kl is 0."
    )
    entropy: float = Field(0.0, ge=0, description="Weight of an entropy bonus.")
    context_weight: float = Field(
        0.1,
        ge=0,
        description=(
            "SFT: loss weight of tokens that the agent did not write (question and observations)."
        ),
    )
    embedding_noise: float = Field(
        0.0,
        ge=0,
        description=(
            "SFT and rejection sampling: alpha of NEFTune, noise of at most alpha / sqrt(L d) on "
            "embeddings of size d in updates, L the longest sequence's tokens. 0: none."
        ),
    )


class CriticConfig(Section):
    """The value model of an algorithm with a critic, and its generalised advantage estimation over
    sampled tokens or turns.
    """

    lr: float = Field(1e-5, gt=0, description="Learning rate of the critic.")
    warmup: int = Field(0, ge=0, description="Updates of linear warm-up of the critic.")
    value_clip: float = Field(
        0.5, ge=0, description="Values change at most by this per step. 0: no limit."
    )
    steps: Literal["token", "turn"] = Field(
        "token",
        description=(
            "Steps of the estimation: sampled tokens, or turns, whose values are those before "
            "their first token."
        ),
    )
    target: Literal["gae", "rewards_to_go"] = Field(
        "gae",
        description=(
            "What the critic learns: advantage plus value, or the sum of the rewards to come."
        ),
    )
    gamma: float = Field(1.0, ge=0, le=1, description="Discount per step.")
    lam: float = Field(1.0, ge=0, le=1, description="Lambda of generalised advantage estimation.")
    whiten: bool = Field(
        True, description="Standardise advantages over the sampled tokens of the batch."
    )
    head_start: int = Field(
        0, ge=0, description="Number of first steps in which only the critic learns."
    )
