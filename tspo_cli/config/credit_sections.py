"""Sections of an experiment file: credit, the policy loss and the critic."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tspo_cli.config.section import Section, UserFunction


class CreditConfig(Section):
    """From outcomes and feedback to advantages. U1 to U13: what the TSPO paper's abstract leaves
    open.
    """

    algorithm: str = Field(
        "tspo",
        description="tspo, grpo, dr_grpo, rloo, reinforce_pp, reinforce_pp_baseline, dapo, gspo, "
        "ppo, mt_grpo, gigpo, "
        "igpo, retrieval_bonus, rejection_sampling, or one of your own as FILE.py:function.",
    )
    outcome: Literal["em", "f1", "em_format"] | UserFunction = Field(
        "em",
        description="U11: reward of the final answer; em_format has the values of Search-R1 v0.3.",
    )
    format_score: float = Field(
        0.2,
        ge=0,
        le=1,
        description=(
            "em_format: a wrong answer in valid form earns this, a correct one in bad form "
            "1 less it."
        ),
    )
    final_format_score: float = Field(
        0.1, ge=0, le=1, description="em_format: a wrong answer in bad form earns this."
    )
    retrieval_score: float = Field(
        0.0,
        ge=0,
        le=1,
        description="em_format: added in valid form where a gold answer was found but not given.",
    )
    overlong_limit: int = Field(
        0,
        ge=0,
        description=(
            "Sampled tokens of a rollout at which the overlong penalty is whole. 0: no penalty."
        ),
    )
    overlong_buffer: int = Field(
        0, ge=0, description="The penalty grows over this many tokens below overlong_limit."
    )
    overlong_penalty: float = Field(
        1.0, ge=0, description="Taken off the outcome of a rollout of overlong_limit tokens."
    )
    hit_source: Literal["retrieved", "generated", "either"] = Field(
        "retrieved", description="U1: text searched for gold."
    )
    match: Literal["norm_token_boundary", "norm_substring", "raw_lower"] = Field(
        "norm_token_boundary", description="U2: how a gold answer is found in a text."
    )
    degenerate: Literal["no_hit", "as_is", "half"] = Field(
        "no_hit",
        description=(
            "U3: yes/no and one-character golds: never a hit, an ordinary hit, or a hit worth half."
        ),
    )
    turn_reward: Literal["prefix", "point", "point_to_go"] = Field(
        "prefix", description="U4: shape of the partial reward."
    )
    gamma: float = Field(
        1.0,
        ge=0,
        le=1,
        description=(
            "U4: discount per turn, of point_to_go, gigpo (where its default is 0.95) and igpo."
        ),
    )
    alpha: float = Field(
        0.5, ge=0, description="U5: size of the partial reward (of retrieval_bonus too)."
    )
    success_turns: Literal["all_ones", "final_only", "hit_plus_final"] = Field(
        "all_ones", description="U6: turn rewards of a correct trajectory."
    )
    gate: Literal["all_wrong", "any_near_miss", "always", "never"] = Field(
        "all_wrong", description="U7: groups that use turn-level advantages."
    )
    norm: Literal["pooled_turns", "per_turn_index", "trajectory"] = Field(
        "pooled_turns", description="U8: population of mean and standard deviation."
    )
    scale: Literal["std", "none"] = Field(
        "std", description="U9: divide by the standard deviation or not."
    )
    std: Literal["unbiased", "biased"] = Field(
        "unbiased", description="U9: divide squares by n - 1 or by n (igpo's default)."
    )
    eps: float = Field(
        1e-6, ge=0, description="U9: added to the standard deviation (1e-4 by default in mt_grpo)."
    )
    mixed_reward: Literal["outcome", "outcome_plus_alpha"] = Field(
        "outcome", description="U10: trajectory reward where trajectory-level advantages are used."
    )
    mt_turns: Literal["each", "first"] = Field(
        "each",
        description=(
            "mt_grpo: compare each search with the others' search of that index, or the "
            "first ones alone."
        ),
    )
    mt_coef: float = Field(1.0, ge=0, description="mt_grpo: weight of the turn-level advantage.")
    mt_execution: float = Field(
        0.2, ge=0, description="mt_grpo: reward of a search that was executed."
    )
    mt_hit: float = Field(
        0.5, ge=0, description="mt_grpo: reward of a search that finds a gold answer."
    )
    gigpo_coef: float = Field(
        1.0, ge=0, description="gigpo: weight of the step-level advantage (omega)."
    )
    gigpo_similarity: float = Field(
        1.0,
        gt=0,
        le=1,
        description=(
            "gigpo: observations at least this similar are one anchor state. 1: identical ones."
        ),
    )
    gigpo_population: Literal["trajectory", "turn"] = Field(
        "trajectory",
        description=(
            "gigpo: a trajectory counts once in the group's mean, or once per turn (as released)."
        ),
    )
    information_gain: Literal["log_prob_diff", "prob_diff"] = Field(
        "log_prob_diff",
        description=(
            "igpo: gain of a turn in the gold answer's log-probability, or in its probability."
        ),
    )
    igpo_norm: Literal["separate", "joint"] = Field(
        "separate", description="igpo: normalise gains and outcomes apart, or together."
    )
    belief_prefix: str = Field(
        "<think> Now there's enough information to answer. </think> <answer>",
        description=(
            "igpo: what stands between a turn's feedback and the gold answer when its "
            "probability is taken."
        ),
    )
    keep_per_question: int = Field(
        1, ge=0, description="rejection_sampling: best rollouts kept per group. 0: all above."
    )
    keep_above: float = Field(
        0.0, description="rejection_sampling: only outcomes above this are kept."
    )


class LossConfig(Section):
    """U12: the policy loss."""

    ratio: Literal["token", "turn", "sequence"] = Field(
        "token",
        description=(
            "Probability ratio: of each token, or the geometric mean over a turn or a "
            "sequence (gspo)."
        ),
    )
    clip_low: float = Field(0.2, ge=0, description="Ratio is clipped below 1 - clip_low.")
    clip_high: float = Field(0.2, ge=0, description="Ratio is clipped above 1 + clip_high.")
    dual_clip: float = Field(
        0.0,
        ge=0,
        description=(
            "Loss of a token with negative advantage is at most this times |advantage|. 0: "
            "unbounded."
        ),
    )
    importance_cap: float = Field(
        2.0,
        gt=0,
        description=(
            "rollout.one_step_off: importance weights (of tokens, turns or sequences) are "
            "cut at this."
        ),
    )
    aggregation: Literal["token_mean", "sequence_mean", "sequence_sum"] = Field(
        "token_mean",
        description="Mean over all sampled tokens of the batch; mean over sequences of their token "
        "means; or mean over "
        "sequences of their token sums, divided by sum_length (dr_grpo).",
    )
    sum_length: int = Field(
        0,
        ge=0,
        description="sequence_sum: constant divisor. 0: the most tokens a rollout may sample.",
    )
    kl: float = Field(
        0.0,
        ge=0,
        description="Weight of the k3 KL to the starting policy. 0: no reference is kept.",
    )
    kl_in: Literal["loss", "reward"] = Field(
        "loss",
        description=(
            "Add the KL to the loss, or take it off each token's reward (ppo and "
            "reinforce_pp only)."
        ),
    )
    log_kl: bool = Field(
        False, description="Keep the starting policy to log the KL also where its weight is 0."
    )
    entropy: float = Field(0.0, ge=0, description="Weight of an entropy bonus.")
    context_weight: float = Field(
        0.1,
        ge=0,
        description=(
            "SFT: loss weight of tokens that are not the agent's (question and observations)."
        ),
    )


class CriticConfig(Section):
    """ppo: the value model and its generalised advantage estimation over sampled tokens."""

    lr: float = Field(1e-5, gt=0, description="Learning rate of the critic.")
    warmup: int = Field(0, ge=0, description="Updates of linear warm-up of the critic.")
    value_clip: float = Field(
        0.5, ge=0, description="Values move at most this far from the old ones per step. 0: freely."
    )
    gamma: float = Field(1.0, ge=0, le=1, description="Discount per sampled token.")
    lam: float = Field(1.0, ge=0, le=1, description="Lambda of generalised advantage estimation.")
    whiten: bool = Field(
        True, description="Standardise advantages over the sampled tokens of the batch."
    )
    head_start: int = Field(
        0, ge=0, description="Steps at the beginning in which only the critic learns."
    )
