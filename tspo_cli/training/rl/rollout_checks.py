"""Checks of a step's rollouts: most of them arrived, and the trained policy sampled them."""

from __future__ import annotations

from collections.abc import Sequence

from tspo_cli.config.schema import Config
from tspo_cli.errors import RemoteServiceError, TspoError
from tspo_cli.rollout.trajectory import Trajectory
from tspo_cli.training.core.distributed import all_sum
from tspo_cli.training.core.handover import parity_limit
from tspo_cli.training.core.policy_learner import PolicyLearner
from tspo_cli.training.core.sequences import TrainSequence
from tspo_cli.training.rl.off_policy import (
    Mismatch,
    correction_of_rounding,
    correction_of_stale,
    importance_corrected,
    measured_mismatch,
    some_sequences,
    staleness,
)
from tspo_cli.training.rl.scoring import ScoredGroup

PARITY_SEQUENCES = 2


def lost_shares(trajectories: Sequence[Trajectory], step: int) -> dict[str, float]:
    """Metrics failed_share (a search failed, or the deadline passed) and mixed_share (sampled with
    more than one version of the weights): shares of the rollouts of all processes.

    Raises:
        RemoteServiceError: every rollout failed.
    """
    failed, mixed, total = all_sum(
        [
            sum(trajectory.failed for trajectory in trajectories),
            sum(trajectory.mixed for trajectory in trajectories),
            len(trajectories),
        ]
    )
    if failed == total:
        errors = [
            turn.search_error
            for trajectory in trajectories
            for turn in trajectory.turns
            if turn.search_error
        ]
        if any(trajectory.late for trajectory in trajectories):
            errors.append("later than rollout.trajectory_deadline")
        reason = errors[0] if errors else "on other processes"
        raise RemoteServiceError(
            f"step {step}: every rollout failed ({reason}); check the retriever and the deadlines, "
            "then use --resume"
        )
    return {"failed_share": failed / total, "mixed_share": mixed / total}


def as_samples_of_policy(
    groups: Sequence[ScoredGroup], learner: PolicyLearner, config: Config, step: int
) -> tuple[list[ScoredGroup], dict[str, float]]:
    """The groups as samples of the learner's policy, and metrics.

    Rollouts that the policy itself sampled are checked: its log-probabilities must be those of the
    engine, except for rounding, which importance weights correct as loss.mismatch says. Rollouts of
    an earlier version always get importance weights.

    Raises:
        TspoError: the log-probabilities differ by more than train.parity_limit.
    """
    metrics: dict[str, float] = {}
    age = 0.0
    if config.rollout.one_step_off:
        age = metrics["staleness"] = staleness(groups, step - 1)
    if age and config.kind != "rl":
        return list(groups), metrics
    if age:
        corrected, mismatch, importance = importance_corrected(
            groups, learner, correction_of_stale(config)
        )
        return corrected, metrics | importance | {"drift": mismatch.mean}
    bfloat16 = learner.core.is_bfloat16
    correction = correction_of_rounding(config, bfloat16=bfloat16) if config.kind == "rl" else None
    if correction is not None:
        corrected, mismatch, importance = importance_corrected(groups, learner, correction)
        metrics |= importance
    else:
        corrected = list(groups)
        mismatch = measured_mismatch(_checked_sequences(groups, bfloat16=bfloat16), learner)
    _refuse_other_policy(mismatch, parity_limit(config, bfloat16=bfloat16), step)
    metrics |= {"parity": mismatch.mean, "parity_p99": mismatch.p99, "mismatch_kl": mismatch.kl}
    return corrected, metrics


def _checked_sequences(groups: Sequence[ScoredGroup], *, bfloat16: bool) -> list[TrainSequence]:
    """In float32 a few rollouts show whether the weights are the same; rounding needs more."""
    if bfloat16:
        return some_sequences(groups)
    sequences = [sequence for group in groups for sequence in group.sequences()]
    return sequences[:PARITY_SEQUENCES]


def _refuse_other_policy(mismatch: Mismatch, limit: float, step: int) -> None:
    if not mismatch.mean <= limit:
        raise TspoError(
            f"step {step}: log-probs of engine and learner differ by {mismatch.mean:.4g} nats on "
            f"average over {mismatch.tokens} tokens, more than train.parity_limit {limit:g}; no "
            "rounding explains that: the engine has other weights or another model; if it is meant "
            "to be, use --resume --set train.parity_limit=..."
        )
