"""TIPS (arXiv 2603.22293): PPO with rewards of turns from a teacher's belief in the gold answers.

Equation: F_k = log of the sum over gold answers a of p_teacher(a | what is known after turn k);
r_k = 0.02 (F_k - F_{k-1}) for a turn before the last, and the outcome for the last one; the rewards
enter PPO's generalised advantage estimation. A variant pays what F_k adds to its maximum so far.
Both are read in the released code.

The teacher here is the starting policy, which is frozen (loss.log_kl keeps it), or the policy that
is trained. The potential telescopes: with gamma 1 and plain differences the rewards of a rollout
add up to 0.02 (F_last - F_0) plus the outcome.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from tspo_cli.credit.algorithms.algorithm import Belief, GoldLogprobOptions, Target, algorithm
from tspo_cli.credit.algorithms.by_turn.information_gain import (
    beliefs,
    gains,
    gains_over_maximum,
)
from tspo_cli.credit.algorithms.by_turn.ppo import ppo
from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory


class TipsOptions(GoldLogprobOptions):
    """The table [credit.tips]."""

    teacher: Literal["policy", "reference"] = Field(
        "reference",
        description="Model whose belief is measured: the frozen starting policy, or the policy.",
    )
    coef: float = Field(0.02, ge=0, description="Reward of a turn for each nat that it adds.")
    maximum: Literal["previous", "running"] = Field(
        "previous", description="A turn adds to the belief before it, or to the highest so far."
    )
    aliases: int = Field(8, ge=1, description="Gold answers that are summed, the first ones.")

    @property
    def belief(self) -> Belief:
        """The log of the summed probabilities."""
        return "alias_sum"

    @property
    def measured(self) -> tuple[object, ...]:
        """Beliefs in the aliases depend on how many there are."""
        return *super().measured, self.aliases

    def targets(
        self, golds: Sequence[str], trajectories: Sequence[JudgedTrajectory]
    ) -> list[Target]:
        """The first `aliases` gold answers that differ."""
        return [(gold, 1.0) for gold in list(dict.fromkeys(golds))[: self.aliases]]


@algorithm(
    options=TipsOptions,
    defaults={"loss.log_kl": True},
    needs=("gold_logprobs", "critic"),
    compares=False,
)
def tips(
    trajectories: Sequence[JudgedTrajectory], config: CreditConfig, options: TipsOptions
) -> AlgorithmResult:
    """Turn rewards only: the critic of the training loop turns them into advantages.

    Raises:
        InvalidInputError: a trajectory without gold log-probabilities.
    """
    added = gains if options.maximum == "previous" else gains_over_maximum
    rewards = tuple(
        (*(options.coef * gain for gain in added(beliefs(trajectory, "tips"))), trajectory.outcome)
        for trajectory in trajectories
    )
    return AlgorithmResult(
        rewards,
        ppo(trajectories, config).advantages,
        "turn",
        reason="TIPS rewards a turn by what it adds to a teacher's belief in the gold answers.",
        formula="Advantage = generalised advantage estimate of a critic.",
    )
