"""REINFORCE++ (Hu et al. 2025, arXiv 2501.03262): the outcome, standardised over the tokens of the
whole batch.

Equation: A_{i,t} = (R_{i,t} - mean R) / (std R + eps) over all sampled tokens of the batch, with
the undiscounted return R_{i,t} = y_i (less the KL to the starting policy from token t on, where
loss.kl_in = "reward"). The baseline variant takes the group's mean off first, R_i = y_i - mean y,
and then standardises over the batch; no standard deviation of the group. Defaults: unbiased
standard deviation. A batch of groups has weight by tokens, so a single group's advantages need not
sum to zero.
"""

from __future__ import annotations

from collections.abc import Sequence

from tspo_cli.config.schema import CreditConfig
from tspo_cli.credit.algorithms.algorithm import outcomes_last, spread
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory
from tspo_cli.credit.normalise import standardise

_WHITEN = "standardised over all sampled tokens of the batch"


def reinforce_pp(trajectories: Sequence[JudgedTrajectory], config: CreditConfig) -> AlgorithmResult:
    """R_i = y_i; the batch is standardised afterwards."""
    return AlgorithmResult(
        outcomes_last(trajectories),
        spread([one.outcome for one in trajectories], trajectories),
        "trajectory",
        reason="REINFORCE++ compares outcomes over the whole batch, not within the group.",
        formula=f"Advantage = outcome, {_WHITEN}.",
    )


def reinforce_pp_baseline(
    trajectories: Sequence[JudgedTrajectory], config: CreditConfig
) -> AlgorithmResult:
    """R_i = y_i - mean y of the group; the batch is standardised afterwards."""
    outcomes = [one.outcome for one in trajectories]
    return AlgorithmResult(
        outcomes_last(trajectories),
        spread(standardise(outcomes, config.model_copy(update={"scale": "none"})), trajectories),
        "trajectory",
        (tuple(outcomes),),
        reason="REINFORCE++ with baseline takes the group's mean off each outcome.",
        formula=f"Advantage = outcome - mean of the group, {_WHITEN}.",
    )
