"""IGPO (Wang et al. 2025, arXiv 2510.14967): a turn earns what it adds to the policy's belief in
the gold answer.

Equation: P_t = exp(mean log-probability of the gold answer's tokens after turn t), P_0 after the
prompt alone; turn t < K earns log P_t - log P_{t-1} (information_gain = "prob_diff": P_t -
P_{t-1}), the last turn the outcome. Gains and outcomes are standardised over the group, separately
(norm = "separate") or together; then A_k = sum over l >= k of gamma^(l-k) of the standardised
rewards. The sum over later turns is part of the method: a trajectory with more turns sums more
terms.

Defaults: biased standard deviation, gamma 1, outcome F1; the released code gives -2 for a missing
answer, here it is F1's 0. The training loop measures the gold log-probabilities with the policy
that is trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from tspo_cli.credit.algorithms.algorithm import GoldLogprobOptions, algorithm
from tspo_cli.credit.algorithms.by_turn.information_gain import (
    beliefs,
    gains,
    gains_and_outcomes,
)
from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory


class IgpoOptions(GoldLogprobOptions):
    """The table [credit.igpo]."""

    information_gain: Literal["log_prob_diff", "prob_diff"] = Field(
        "log_prob_diff",
        description="Gain of a turn in the gold answer's log-probability, or in its probability.",
    )
    norm: Literal["separate", "joint"] = Field(
        "separate", description="Standardise gains and outcomes separately, or together."
    )


@algorithm(
    options=IgpoOptions,
    defaults={"credit.outcome": "f1", "credit.std": "biased"},
    needs="gold_logprobs",
)
def igpo(
    trajectories: Sequence[JudgedTrajectory], config: CreditConfig, options: IgpoOptions
) -> AlgorithmResult:
    """Standardised gains, summed from each turn on.

    Raises:
        InvalidInputError: a trajectory without gold log-probabilities.
    """
    return gains_and_outcomes(
        [_gains(trajectory, options) for trajectory in trajectories],
        trajectories,
        config,
        joint=options.norm == "joint",
        reason="IGPO rewards a turn by what it adds to the probability of the gold answer.",
    )


def _gains(trajectory: JudgedTrajectory, options: IgpoOptions) -> tuple[float, ...]:
    """The K - 1 gains of a trajectory."""
    measured = beliefs(trajectory, "igpo")
    return gains(
        tuple(map(math.exp, measured)) if options.information_gain == "prob_diff" else measured
    )
