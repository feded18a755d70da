"""Rejection sampling (RAFT, Dong et al. 2023, arXiv 2304.06767; a baseline of Search-R1): imitate
the best of n.

Equation: A_i = 1 for the keep_per_question best rollouts of a group with an outcome above
keep_above, else 0; the loss is the negative log-likelihood of the kept rollouts' sampled tokens.
With kind = "rejection_sampling" every step is a round: sample with the newest policy, keep,
imitate. Defaults: the best one, with an outcome above 0. Among equal outcomes the rollout with
fewer turns, then with fewer tokens comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from tspo_cli.config.sections.section import Section
from tspo_cli.credit.algorithms.algorithm import algorithm, outcomes_last, repeat_over_turns
from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory


class RejectionSamplingOptions(Section):
    """The table [credit.rejection_sampling]."""

    keep_per_question: int = Field(
        1, ge=0, description="Best rollouts of a group that are kept. 0: all above keep_above."
    )
    keep_above: float = Field(0.0, description="Only rollouts with an outcome above this are kept.")


@algorithm(options=RejectionSamplingOptions, compares=False, kind="rejection_sampling")
def rejection_sampling(
    trajectories: Sequence[JudgedTrajectory],
    config: CreditConfig,
    options: RejectionSamplingOptions,
) -> AlgorithmResult:
    """1 for a rollout that is kept, 0 for the others."""
    good = [
        index
        for index, trajectory in enumerate(trajectories)
        if trajectory.outcome > options.keep_above
    ]
    order = sorted(good, key=lambda index: _rank(trajectories[index]))
    kept = set(order[: options.keep_per_question] if options.keep_per_question else order)
    values = [float(index in kept) for index in range(len(trajectories))]
    return AlgorithmResult(
        outcomes_last(trajectories),
        repeat_over_turns(values, trajectories),
        "trajectory",
        reason=(
            f"Of {len(good)} {'rollout' if len(good) == 1 else 'rollouts'} with an outcome above "
            f"{options.keep_above:g}, {len(kept)} {'is' if len(kept) == 1 else 'are'} imitated."
        ),
        formula="Advantage = 1 for a rollout that is imitated, else 0.",
    )


def _rank(trajectory: JudgedTrajectory) -> tuple[Any, ...]:
    """Sort key. Texts come last, so that the order of the group never decides."""
    turns = trajectory.trajectory.turns
    return (
        -trajectory.outcome,
        trajectory.turns,
        sum(turn.tokens for turn in turns),
        [(turn.generated, turn.feedback) for turn in turns],
    )
