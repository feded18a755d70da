"""Rollouts that an earlier version of the policy sampled: truncated importance weights.

The surrogate compares the policy with the learner as it was before the step's updates, pi_old, but
the tokens come from a behaviour policy mu, the engine's weights when it sampled. E_mu[w f] with w =
pi_old / mu is E_pi_old[f]; cutting w at a cap bounds its variance at the price of a bias (Ionides
2008, "Truncated importance sampling"). AReaL's decoupled objective (arXiv 2505.24298) tells
behaviour and proximal policy apart in the same way.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from tspo_cli.config.schema import LossConfig
from tspo_cli.training.core.batching import TrainSequence
from tspo_cli.training.core.distributed import all_max, all_sum
from tspo_cli.training.core.learner import Learner
from tspo_cli.training.rl.scoring import ScoredGroup


def staleness(groups: Sequence[ScoredGroup], version: int) -> float:
    """How many steps older than `version` the weights are that sampled the groups: the mean over
    all rollouts.
    """
    ages = [version - one.weight_version for group in groups for one in group.trajectories]
    total, count = all_sum([sum(ages), len(ages)])
    return total / max(count, 1.0)


def importance_corrected(
    groups: Sequence[ScoredGroup], learner: Learner, options: LossConfig
) -> tuple[list[ScoredGroup], dict[str, float]]:
    """The groups with pi_old's log-probs in place of mu's, and advantages times the truncated
    weights.

    A weight times an advantage weights the clipped surrogate, which is positively homogeneous in
    the advantage. Sequences without an advantage stay as they are: nothing of theirs is weighted.
    Every process calls it.

    Metrics: importance_mean and importance_max (before the cut), importance_cut (share of tokens
    whose weight was cut), drift (mean absolute change of the log-probs, nats); none where no
    sequence has an advantage.
    """
    rows = [group.sequences() for group in groups]
    active = [(row, place) for row in rows for place, one in enumerate(row) if any(one.advantages)]
    now = learner.logprobs([row[place] for row, place in active])
    weights: list[float] = []
    changes: list[float] = []
    for (row, place), logprobs in zip(active, now, strict=True):
        one = row[place]
        own = importance_weights(one, logprobs, options.ratio)
        cut = [min(weight, options.importance_cap) for weight in own]
        advantages = [
            advantage * weight for advantage, weight in zip(one.advantages, cut, strict=True)
        ]
        row[place] = replace(one, advantages=advantages, old_logprobs=logprobs)
        sampled = [index for index, weight in enumerate(one.weights) if weight]
        weights += [own[index] for index in sampled]
        changes += [abs(logprobs[index] - one.old_logprobs[index]) for index in sampled]
    cuts = sum(weight > options.importance_cap for weight in weights)
    total, cut_total, change, count = all_sum([sum(weights), cuts, sum(changes), len(weights)])
    largest = all_max(max(weights, default=0.0))
    metrics = (
        {
            "importance_mean": total / count,
            "importance_max": largest,
            "importance_cut": cut_total / count,
            "drift": change / count,
        }
        if count
        else {}
    )
    return [
        replace(group, corrected=tuple(row)) for group, row in zip(groups, rows, strict=True)
    ], metrics


def importance_weights(
    sequence: TrainSequence, logprobs: Sequence[float], ratio: str
) -> list[float]:
    """exp(logprobs - old_logprobs) of each token [T], 1 where it is not trained.

    `ratio` "turn" and "sequence" give all tokens of a turn or sequence their geometric mean, as the
    loss does.
    """
    pools: dict[int, list[int]] = defaultdict(list)
    for place, weight in enumerate(sequence.weights):
        if weight:
            turn = sequence.turns[place] if sequence.turns else 0
            pools[{"token": place, "turn": turn}.get(ratio, 0)].append(place)
    weights = [1.0] * len(sequence.weights)
    for places in pools.values():
        mean = sum(logprobs[place] - sequence.old_logprobs[place] for place in places) / len(places)
        for place in places:
            weights[place] = math.exp(mean)
    return weights
