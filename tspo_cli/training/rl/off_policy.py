"""Rollouts that an earlier version of the policy sampled: truncated importance weights.

The surrogate compares the policy with the learner as it was before the step's updates, pi_old, but
the tokens come from a behaviour policy mu, the engine's weights when it sampled. E_mu[w f] with w =
pi_old / mu is E_pi_old[f]; cutting w at a cap bounds its variance at the price of a bias (Ionides
2008, "Truncated importance sampling"). AReaL's decoupled objective (arXiv 2505.24298) separates
behaviour and proximal policy in the same way.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from tspo_cli.config.schema import LossConfig
from tspo_cli.training.core.distributed import all_max, all_sum
from tspo_cli.training.core.policy_learner import PolicyLearner
from tspo_cli.training.core.sequences import TrainSequence
from tspo_cli.training.rl.scoring import ScoredGroup


def staleness(groups: Sequence[ScoredGroup], version: int) -> float:
    """How many steps older than `version` the weights are that sampled the groups: the mean over
    the rollouts of all processes.
    """
    ages = [
        version - trajectory.weight_version for group in groups for trajectory in group.trajectories
    ]
    total, count = all_sum([sum(ages), len(ages)])
    return total / max(count, 1.0)


def importance_corrected(
    groups: Sequence[ScoredGroup], learner: PolicyLearner, options: LossConfig
) -> tuple[list[ScoredGroup], dict[str, float]]:
    """The groups with pi_old's log-probs in place of mu's, and advantages times the truncated
    weights.

    A weight times an advantage weights the clipped surrogate, which is positively homogeneous in
    the advantage. Sequences without an advantage stay as they are. Every process calls it.

    Metrics: importance_mean and importance_max (before the cut), importance_cut (share of tokens
    whose weight was cut), drift (mean absolute change of the log-probs, nats); none where no
    sequence has an advantage.
    """
    rows = [group.sequences() for group in groups]
    active = [
        (row, index)
        for row in rows
        for index, sequence in enumerate(row)
        if any(sequence.advantages)
    ]
    current = learner.logprobs([row[index] for row, index in active])
    weights: list[float] = []
    changes: list[float] = []
    for (row, index), logprobs in zip(active, current, strict=True):
        sequence = row[index]
        ratios = importance_weights(sequence, logprobs, options.ratio)
        advantages = [
            advantage * min(ratio, options.importance_cap)
            for advantage, ratio in zip(sequence.advantages, ratios, strict=True)
        ]
        row[index] = replace(sequence, advantages=advantages, old_logprobs=logprobs)
        sampled = [token for token, weight in enumerate(sequence.weights) if weight]
        weights += [ratios[token] for token in sampled]
        changes += [abs(logprobs[token] - sequence.old_logprobs[token]) for token in sampled]
    corrected = [
        replace(group, corrected=tuple(row)) for group, row in zip(groups, rows, strict=True)
    ]
    return corrected, _importance_metrics(weights, changes, options.importance_cap)


def _importance_metrics(
    weights: Sequence[float], changes: Sequence[float], cap: float
) -> dict[str, float]:
    cuts = sum(weight > cap for weight in weights)
    total, cut_total, change, count = all_sum([sum(weights), cuts, sum(changes), len(weights)])
    largest = all_max(max(weights, default=0.0))
    if not count:
        return {}
    return {
        "importance_mean": total / count,
        "importance_max": largest,
        "importance_cut": cut_total / count,
        "drift": change / count,
    }


def importance_weights(
    sequence: TrainSequence, logprobs: Sequence[float], ratio: str
) -> list[float]:
    """exp(logprobs - old_logprobs) of each token [T], 1 where it is not trained.

    `ratio` "turn" and "sequence" give all tokens of a turn or sequence their geometric mean, as the
    loss does.
    """
    pools: dict[int, list[int]] = defaultdict(list)
    for token, weight in enumerate(sequence.weights):
        if weight:
            turn = sequence.turns[token] if sequence.turns else 0
            pools[{"token": token, "turn": turn}.get(ratio, 0)].append(token)
    weights = [1.0] * len(sequence.weights)
    for tokens in pools.values():
        mean = sum(logprobs[token] - sequence.old_logprobs[token] for token in tokens) / len(tokens)
        for token in tokens:
            weights[token] = math.exp(mean)
    return weights
