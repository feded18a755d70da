"""REINFORCE++ (Hu et al. 2025, arXiv 2501.03262): the outcome, standardised over the tokens of the
whole batch.

Equation: A_{i,t} = (R_{i,t} - mean R) / (std R + eps) over all sampled tokens of the batch, with
the undiscounted return R_{i,t} = y_i (minus the KL to the starting policy from token t on, if
loss.kl_in = "reward"). The baseline variant subtracts the group's mean first, R_i = y_i - mean y,
and then standardises over the batch; no standard deviation of the group. Default: unbiased standard
deviation. Groups are weighted by tokens, so a single group's advantages need not sum to zero.
"""

from __future__ import annotations

from collections.abc import Sequence

from tspo_cli.credit.algorithms.algorithm import algorithm, outcomes_last, repeat_over_turns
from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory
from tspo_cli.credit.normalise import standardise

_WHITEN = "standardised over all sampled tokens of the batch"


@algorithm(whiten=True, compares=False)
def reinforce_pp(trajectories: Sequence[JudgedTrajectory], config: CreditConfig) -> AlgorithmResult:
    """R_i = y_i; the batch is standardised afterwards."""
    outcomes = [trajectory.outcome for trajectory in trajectories]
    return AlgorithmResult(
        outcomes_last(trajectories),
        repeat_over_turns(outcomes, trajectories),
        "trajectory",
        reason="REINFORCE++ compares outcomes over the whole batch, not within the group.",
        formula=f"Advantage = outcome, {_WHITEN}.",
    )


@algorithm(whiten=True)
def reinforce_pp_baseline(
    trajectories: Sequence[JudgedTrajectory], config: CreditConfig
) -> AlgorithmResult:
    """R_i = y_i - mean y of the group; the batch is standardised afterwards."""
    outcomes = [trajectory.outcome for trajectory in trajectories]
    centred = standardise(outcomes, config.model_copy(update={"scale": "none"}))
    return AlgorithmResult(
        outcomes_last(trajectories),
        repeat_over_turns(centred, trajectories),
        "trajectory",
        (tuple(outcomes),),
        reason="REINFORCE++ with baseline takes the group's mean off each outcome.",
        formula=f"Advantage = outcome - mean of the group, {_WHITEN}.",
    )
