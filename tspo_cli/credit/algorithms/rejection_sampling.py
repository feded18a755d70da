"""Rejection sampling (RAFT, Dong et al. 2023, arXiv 2304.06767; a baseline of Search-R1): imitate
the best of n.

Equation: A_i = 1 for the credit.keep_per_question best rollouts of a group with an outcome above
credit.keep_above, else 0; the loss is the negative log-likelihood of the kept rollouts' sampled
tokens. With kind = "rejection_sampling" every step is a round: sample with the newest policy, keep,
imitate. Defaults: the best one, with an outcome above 0. Among equals the rollout with fewer turns,
then with fewer tokens goes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tspo_cli.config.schema import CreditConfig
from tspo_cli.credit.algorithms.algorithm import outcomes_last, spread
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory


def rejection_sampling(
    trajectories: Sequence[JudgedTrajectory], config: CreditConfig
) -> AlgorithmResult:
    """1 for a rollout that is kept, 0 for the others."""
    good = [place for place, one in enumerate(trajectories) if one.outcome > config.keep_above]
    order = sorted(good, key=lambda place: _rank(trajectories[place]))
    kept = set(order[: config.keep_per_question] if config.keep_per_question else order)
    return AlgorithmResult(
        outcomes_last(trajectories),
        spread([float(place in kept) for place in range(len(trajectories))], trajectories),
        "trajectory",
        reason=(
            f"Of {len(good)} rollouts with an outcome above {config.keep_above:g}, {len(kept)} "
            "are imitated."
        ),
        formula="Advantage = 1 for a rollout that is imitated, else 0.",
    )


def _rank(one: JudgedTrajectory) -> tuple[Any, ...]:
    """Texts last, so that the order of the group never decides."""
    tokens = sum(turn.tokens for turn in one.trajectory.turns)
    return (
        -one.outcome,
        one.turns,
        tokens,
        [(turn.generated, turn.feedback) for turn in one.trajectory.turns],
    )
