"""Checks of a step's rollouts: most of them arrived, and the trained policy sampled them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress

import torch

from tspo_cli.config.schema import Config
from tspo_cli.console import counted
from tspo_cli.errors import RemoteServiceError, TspoError
from tspo_cli.rollout.trajectory import Trajectory
from tspo_cli.rollout.trees import shares_turns
from tspo_cli.training.core.distributed import all_sum
from tspo_cli.training.core.handover import parity_limit
from tspo_cli.training.core.losses import correction_of_rounding, correction_of_stale
from tspo_cli.training.core.policy_learner import PolicyLearner
from tspo_cli.training.core.sequences import TrainSequence
from tspo_cli.training.rl.off_policy import (
    Mismatch,
    importance_corrected,
    measured_mismatch,
    mismatch_of,
    some_sequences,
    staleness,
)
from tspo_cli.training.rl.scoring import ScoredGroup, needs_critic

PARITY_SEQUENCES = 2


FAILED_BY_SEARCHES = "failed_share/searches_"
"""Begins the name of the share of failed rollouts among those with so many searches."""


def lost_shares(
    trajectories: Sequence[Trajectory], step: int, max_searches: int
) -> dict[str, float]:
    """Metrics failed_share (a search failed, or the deadline passed) and mixed_share (sampled with
    more than one version of the weights): shares of the rollouts of all processes. Where some
    failed, failed_share/searches_N as well, of the rollouts with N searches, the failed one
    counted: a rollout with more searches fails more often, and what is left has fewer.

    Raises:
        RemoteServiceError: every rollout failed.
    """
    numbers = [min(trajectory.searches, max_searches) for trajectory in trajectories]
    failures = [trajectory.failed for trajectory in trajectories]
    sizes, losses = Counter(numbers), Counter(compress(numbers, failures))
    counts = [counter[number] for counter in (losses, sizes) for number in range(max_searches + 1)]
    mixed, *both = all_sum([sum(trajectory.mixed for trajectory in trajectories), *counts])
    failed_of, all_of = both[: max_searches + 1], both[max_searches + 1 :]
    failed, total = sum(failed_of), sum(all_of)
    if failed == total:
        errors = [
            turn.search_error
            for trajectory in trajectories
            for turn in trajectory.turns
            if turn.search_error
        ]
        errors += [rollout.judge_error for rollout in trajectories if rollout.judge_error]
        if any(trajectory.late for trajectory in trajectories):
            errors.append("later than rollout.trajectory_deadline")
        reason = errors[0] if errors else "on other processes"
        raise RemoteServiceError(
            f"step {step}: every rollout failed ({reason}); check the retriever and the deadlines, "
            "then use --resume"
        )
    by_searches = {
        f"{FAILED_BY_SEARCHES}{number}": lost / size
        for number, (lost, size) in enumerate(zip(failed_of, all_of, strict=True))
        if failed and size
    }
    return {"failed_share": failed / total, "mixed_share": mixed / total} | by_searches


@dataclass
class PolicyCheck:
    """The check of rollouts that the policy itself sampled: its log-probabilities must be those of
    the engine, except for rounding. `metrics` has its results.
    """

    limit: float
    step: int
    metrics: dict[str, float] = field(default_factory=dict)

    def __call__(self, changes: torch.Tensor) -> None:
        """Check the policy's log-probabilities minus the engine's [N] (nats, float64) of this
        process's sampled tokens. Every process calls it.

        Raises:
            TspoError: they differ by more than the limit.
        """
        self.check(mismatch_of(changes.cpu()))

    def check(self, mismatch: Mismatch) -> None:
        """Check what is already measured; see `__call__`."""
        if not mismatch.mean <= self.limit:
            raise TspoError(
                f"step {self.step}: log-probs of engine and learner differ by {mismatch.mean:.4g} "
                f"nats on average over {counted(mismatch.tokens, 'token')}, more than "
                f"train.parity_limit {self.limit:g}; no rounding explains that: the engine has "
                "other weights or another model; if it is meant to be, use --resume --set "
                "train.parity_limit=..."
            )
        self.metrics |= {
            "parity": mismatch.mean,
            "parity_p99": mismatch.p99,
            "mismatch_kl": mismatch.kl,
        }


def as_samples_of_policy(
    groups: Sequence[ScoredGroup], learner: PolicyLearner, config: Config, step: int
) -> tuple[list[ScoredGroup], dict[str, float], PolicyCheck | None]:
    """The groups as samples of the learner's policy, metrics, and the check that the update has to
    make (None: it is made here, or there is none).

    Rollouts that the policy itself sampled are checked (`PolicyCheck`); importance weights correct
    rounding as loss.mismatch says. Rollouts of an earlier version always get importance weights.

    Raises:
        TspoError: the log-probabilities differ by more than train.parity_limit.
    """
    metrics: dict[str, float] = {}
    age = 0.0
    if config.rollout.one_step_off:
        age = metrics["staleness"] = staleness(groups, step - 1)
    if age and config.kind != "rl":
        return list(groups), metrics, None
    if age:
        corrected, mismatch, importance = importance_corrected(
            groups, learner, correction_of_stale(config)
        )
        return corrected, metrics | importance | {"drift": mismatch.mean}, None
    bfloat16 = learner.core.is_bfloat16
    check = PolicyCheck(parity_limit(config, bfloat16=bfloat16), step)
    correction = correction_of_rounding(config, bfloat16=bfloat16) if config.kind == "rl" else None
    if correction is not None:
        corrected, mismatch, importance = importance_corrected(groups, learner, correction)
        metrics |= importance
    elif _update_measures(groups, learner, config):
        return list(groups), metrics, check
    else:
        corrected = list(groups)
        mismatch = measured_mismatch(_checked_sequences(groups, bfloat16=bfloat16), learner)
    check.check(mismatch)
    return corrected, metrics | check.metrics, None


def _update_measures(groups: Sequence[ScoredGroup], learner: PolicyLearner, config: Config) -> bool:
    """Whether the step's only update computes log-probabilities of rollouts anyway, where another
    forward pass for the check would take long.
    """
    if (
        not learner.core.is_large_on_cpu
        or config.kind != "rl"
        or config.train.updates_per_step > 1
        or config.rollout.dynamic_sampling
        or needs_critic(config)
    ):
        return False
    rows = [sequence for group in groups for sequence in group.sequences()]
    return all_sum([sum(learner.has_gradient(row) and any(row.weights) for row in rows)])[0] > 0


def _checked_sequences(groups: Sequence[ScoredGroup], *, bfloat16: bool) -> list[TrainSequence]:
    """In float32 a few rollouts show whether the weights are the same; rounding needs more. The
    first branch is among them: the engine copied what it knows of its shared turns.
    """
    if bfloat16:
        return some_sequences(groups)
    rollouts = [rollout for group in groups for rollout in group.trajectories]
    sequences = [sequence for group in groups for sequence in group.sequences()]
    branch = next((index for index, one in enumerate(rollouts) if shares_turns(one)), 0)
    return [
        sequence
        for index, sequence in enumerate(sequences)
        if index < PARITY_SEQUENCES or index == branch
    ]
