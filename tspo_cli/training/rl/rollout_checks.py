"""Checks of a step's rollouts: most of them arrived, and the trained policy sampled them."""

from __future__ import annotations

from collections.abc import Sequence

from tspo_cli.config.schema import Config
from tspo_cli.errors import RemoteServiceError, TspoError
from tspo_cli.rollout.trajectory import Trajectory
from tspo_cli.training.core.distributed import all_sum
from tspo_cli.training.core.policy_learner import PolicyLearner
from tspo_cli.training.rl.off_policy import importance_corrected, staleness
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
    engine. Rollouts of an earlier version get importance weights.

    Raises:
        TspoError: the log-probabilities differ by more than train.parity_limit.
    """
    metrics = {}
    age = 0.0
    if config.rollout.one_step_off:
        age = metrics["staleness"] = staleness(groups, step - 1)
    if age == 0:
        gap = _engine_gap(groups, learner, config, step)
        return list(groups), metrics | {"parity": gap}
    if config.kind != "rl":
        return list(groups), metrics
    corrected, importance = importance_corrected(groups, learner, config.loss)
    return corrected, metrics | importance


def _engine_gap(
    groups: Sequence[ScoredGroup], learner: PolicyLearner, config: Config, step: int
) -> float:
    """Mean difference (nats) of the engine's log-probabilities from the learner's, on a few
    rollouts.
    """
    sequences = [sequence for group in groups for sequence in group.sequences()]
    gap = learner.logprob_gap(sequences[:PARITY_SEQUENCES])
    limit = config.train.parity_limit
    if gap > limit:
        raise TspoError(
            f"step {step}: engine and learner log-probs differ by {gap:.4g} nats on average, more "
            f"than train.parity_limit {limit}; the rollouts do not come from the trained policy"
        )
    return gap
