"""SIOP (arXiv 2605.04984): a turn earns what it adds to the belief in the answers that turned out
well.

Equation: the answers of a group form clusters c with m_c rollouts and reward r_c; q_c is
proportional to m_c exp(eta r_c); r_k = sum over c of q_c (log p_k(c) - log p_{k-1}(c)), with p_k(c)
the policy's probability of the cluster's answer after turn k, and p_0 after the prompt alone. The
turn rewards of a group are standardised together, and summed over later turns. The equation and the
pool are read in the released code (notes, not the paper).

Open, and options here: eta; what log p is (`probability`: the mean log-probability of the answer's
tokens, their sum, or the logarithm of the share among the clusters); how many clusters count.
Readings of ours: two answers are one cluster if their SQuAD normal forms agree (their lower case,
where nothing is left in that form), its most frequent form stands for it, r_c is the mean outcome
of its rollouts, rollouts without an answer belong to no cluster, and the last turn earns the
outcome, as with IGPO.

The reward is a difference of F_k = sum of q_c log p_k(c), which the training loop measures; records
hold it as gold_logprobs. So `tspo credit` takes eta, probability and clusters from the run, and
refuses the beliefs that another algorithm recorded.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from tspo_cli.credit.algorithms.algorithm import Belief, GoldLogprobOptions, Target, algorithm
from tspo_cli.credit.algorithms.by_turn.information_gain import (
    beliefs,
    gains,
    gains_and_outcomes,
)
from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory
from tspo_cli.data.normal_form import normalize_answer


class SiopOptions(GoldLogprobOptions):
    """The table [credit.siop]."""

    decide_belief = ("eta", "probability", "clusters")

    eta: float = Field(
        5.0,  # with 1, groups of wrong answers are learnt: docs/methods_2026.md
        ge=0,
        description="How much the reward of a cluster of answers counts beside its size.",
    )
    probability: Literal["mean", "sum", "shares"] = Field(
        "mean",
        description=(
            "log p of a cluster's answer: the mean log-probability of its tokens, their sum, or "
            "the logarithm of its share among the clusters."
        ),
    )
    clusters: int = Field(8, ge=1, description="Clusters that count, those with the largest q.")
    norm: Literal["separate", "joint"] = Field(
        "joint", description="Standardise gains and outcomes together, or separately."
    )

    @property
    def belief(self) -> Belief:
        """`probability`."""
        return self.probability

    @property
    def measured(self) -> tuple[object, ...]:
        """Beliefs in the clusters depend on `eta` and `clusters` too."""
        return *super().measured, self.eta, self.clusters

    def targets(
        self, golds: Sequence[str], trajectories: Sequence[JudgedTrajectory]
    ) -> list[Target]:
        """The answers of the clusters with their q."""
        return clusters_of(trajectories, self.eta, self.clusters)


def clusters_of(
    trajectories: Sequence[JudgedTrajectory], eta: float, most: int
) -> list[tuple[str, float]]:
    """The answers that stand for the clusters of a group, and their q, which add up to 1; at most
    `most` of them, the largest q first (among equal ones the earlier answer). Empty where no
    rollout answered.
    """
    forms: dict[str, Counter[str]] = defaultdict(Counter)
    outcomes: dict[str, list[float]] = defaultdict(list)
    for rollout in trajectories:
        answer = (rollout.trajectory.answer or "").strip()
        if answer:
            name = normalize_answer(answer) or answer.lower()
            forms[name][answer] += 1
            outcomes[name].append(rollout.outcome)
    highest = max((sum(rewards) / len(rewards) for rewards in outcomes.values()), default=0.0)
    weights = {  # less the highest reward: a large eta must not overflow
        name: len(rewards) * math.exp(eta * (sum(rewards) / len(rewards) - highest))
        for name, rewards in outcomes.items()
    }
    kept = sorted(weights, key=lambda name: -weights[name])[:most]
    total = sum(weights[name] for name in kept)
    return [(forms[name].most_common(1)[0][0], weights[name] / total) for name in kept]


@algorithm(options=SiopOptions, needs="gold_logprobs")
def siop(
    trajectories: Sequence[JudgedTrajectory], config: CreditConfig, options: SiopOptions
) -> AlgorithmResult:
    """Standardised gains, summed from each turn on.

    Raises:
        InvalidInputError: a trajectory whose beliefs were not measured.
    """
    return gains_and_outcomes(
        [gains(beliefs(trajectory, "siop")) for trajectory in trajectories],
        trajectories,
        config,
        joint=options.norm == "joint",
        reason="SIOP rewards a turn by what it adds to the belief in answers that turned out well.",
    )
