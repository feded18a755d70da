"""MIG (arXiv 2602.01034): a turn earns what it adds to the highest belief so far.

Equation: g_k = max(0, l_k - max over j < k of l_j), with l_k the mean log-probability of the gold
answer's tokens after turn k and l_0 after the prompt alone. Read in notes about the paper, which
say nothing of the advantage; ours is IGPO's: gains and outcomes standardised over the group, then
the sum over later turns with credit.gamma. A belief that is lost and regained earns nothing, so a
search that only repeats is not paid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from tspo_cli.credit.algorithms.algorithm import GoldLogprobOptions, algorithm
from tspo_cli.credit.algorithms.by_turn.information_gain import (
    beliefs,
    gains_and_outcomes,
    gains_over_maximum,
)
from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory


class MigOptions(GoldLogprobOptions):
    """The table [credit.mig]."""

    norm: Literal["separate", "joint"] = Field(
        "separate", description="Standardise gains and outcomes separately, or together."
    )


@algorithm(options=MigOptions, needs="gold_logprobs")
def mig(
    trajectories: Sequence[JudgedTrajectory], config: CreditConfig, options: MigOptions
) -> AlgorithmResult:
    """Standardised gains over the running maximum, summed from each turn on.

    Raises:
        InvalidInputError: a trajectory without gold log-probabilities.
    """
    return gains_and_outcomes(
        [gains_over_maximum(beliefs(trajectory, "mig")) for trajectory in trajectories],
        trajectories,
        config,
        joint=options.norm == "joint",
        reason="MIG rewards a turn by how far it lifts the belief in the gold above its maximum.",
    )
