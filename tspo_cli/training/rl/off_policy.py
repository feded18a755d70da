"""Rollouts that another policy sampled than the one that is trained: importance weights.

The surrogate compares the policy with the learner as it was before the step's updates, pi_old, but
the tokens come from a behaviour policy mu: the engine, with weights of an earlier step, or with the
same weights and other rounding. E_mu[w f] with w = pi_old / mu is E_pi_old[f]. Cutting w at a cap
bounds its variance at the price of a bias (Ionides 2008, "Truncated importance sampling"); leaving
out tokens with an extreme w drops what rounding distorted most. AReaL's decoupled objective (arXiv
2505.24298) separates behaviour and proximal policy in the same way.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from tspo_cli.training.core.distributed import all_max, all_sum, gather_table, world_size
from tspo_cli.training.core.losses import Correction
from tspo_cli.training.core.policy_learner import PolicyLearner
from tspo_cli.training.core.sequences import TrainSequence
from tspo_cli.training.rl.scoring import ScoredGroup

MEASURED_TOKENS = 1000
"""Fewest sampled tokens, over all processes, that the mismatch is measured on."""
LARGEST_CHANGE = 50.0
"""Nats. A larger change of a log-prob counts as this one: its exponential would overflow."""


def staleness(groups: Sequence[ScoredGroup], version: int) -> float:
    """How many steps older than `version` the weights are that sampled the groups: the mean over
    the rollouts of all processes.
    """
    ages = [
        version - trajectory.weight_version for group in groups for trajectory in group.trajectories
    ]
    total, count = all_sum([sum(ages), len(ages)])
    return total / max(count, 1.0)


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The learner's log-probabilities beside the engine's, over the sampled tokens of all
    processes: `tokens` of them, `mean` and `p99` of the absolute difference (nats), and `kl`, the
    k3 estimate of KL(engine, learner) (nats).
    """

    tokens: int = 0
    mean: float = 0.0
    p99: float = 0.0
    kl: float = 0.0


def importance_corrected(
    groups: Sequence[ScoredGroup], learner: PolicyLearner, correction: Correction
) -> tuple[list[ScoredGroup], Mismatch, dict[str, float]]:
    """The groups with pi_old's log-probs in place of mu's, and advantages times the weights'
    factors; the mismatch; and metrics. Every process calls it.

    A factor times an advantage weights the clipped surrogate, which is positively homogeneous in
    the advantage. Sequences without an advantage stay as they are. They are measured where the
    others have fewer than `MEASURED_TOKENS` tokens.

    Metrics: importance_mean and importance_max (before the cut), importance_cut (share of tokens
    whose weight was cut or set to 0), effective_sample_share ((sum w)^2 / (n sum w^2)); none where
    no sequence has an advantage.
    """
    rows = [group.sequences() for group in groups]
    places = _measured_places(rows)
    current = learner.logprobs([rows[row][index] for row, index in places])
    mismatch = _mismatch([rows[row][index] for row, index in places], current)
    weights: list[float] = []
    for (row, index), logprobs in zip(places, current, strict=True):
        sequence = rows[row][index]
        if not any(sequence.advantages):
            continue
        ratios = importance_weights(sequence, logprobs, correction.ratio)
        advantages = [
            advantage * correction.factor(ratio)
            for advantage, ratio in zip(sequence.advantages, ratios, strict=True)
        ]
        rows[row][index] = replace(sequence, advantages=advantages, old_logprobs=logprobs)
        weights += [ratios[token] for token in _sampled(sequence)]
    corrected = [
        replace(group, corrected=tuple(row)) for group, row in zip(groups, rows, strict=True)
    ]
    return corrected, mismatch, _importance_metrics(weights, correction)


def measured_mismatch(sequences: Sequence[TrainSequence], learner: PolicyLearner) -> Mismatch:
    """The mismatch on `sequences` of this process and those of the others."""
    return _mismatch(sequences, learner.logprobs(sequences))


def some_sequences(groups: Sequence[ScoredGroup]) -> list[TrainSequence]:
    """The first sequences of the groups, until `MEASURED_TOKENS` tokens of all processes."""
    rows = [group.sequences() for group in groups]
    return [rows[row][index] for row, index in _measured_places(rows, every_active=False)]


def _measured_places(
    rows: Sequence[Sequence[TrainSequence]], *, every_active: bool = True
) -> list[tuple[int, int]]:
    """Row and index of the sequences to measure, in order: those with an advantage, and more until
    they have this process's portion of `MEASURED_TOKENS`.
    """
    wanted = math.ceil(MEASURED_TOKENS / world_size())
    places = [(row, index) for row, found in enumerate(rows) for index in range(len(found))]
    active = [(row, index) for row, index in places if any(rows[row][index].advantages)]
    kept = active if every_active else []
    tokens = sum(len(_sampled(rows[row][index])) for row, index in kept)
    for row, index in places:
        if tokens >= wanted:
            break
        if (row, index) not in kept:
            kept.append((row, index))
            tokens += len(_sampled(rows[row][index]))
    return sorted(kept)


def _sampled(sequence: TrainSequence) -> list[int]:
    return [token for token, weight in enumerate(sequence.weights) if weight]


def _mismatch(sequences: Sequence[TrainSequence], current: Sequence[Sequence[float]]) -> Mismatch:
    changes = [
        logprobs[token] - sequence.old_logprobs[token]
        for sequence, logprobs in zip(sequences, current, strict=True)
        for token in _sampled(sequence)
    ]
    return mismatch_of(torch.tensor(changes, dtype=torch.float64))


def mismatch_of(changes: torch.Tensor) -> Mismatch:
    """The mismatch from the learner's log-probabilities minus the engine's [N] (nats, float64) of
    this process's sampled tokens. Every process calls it.
    """
    change = torch.cat(gather_table(changes.reshape(-1, 1)))[:, 0].numpy()
    if not len(change):
        return Mismatch()
    gaps = np.abs(change)
    return Mismatch(
        tokens=len(gaps),
        mean=float(gaps.mean()),
        p99=float(np.quantile(gaps, 0.99)),
        kl=float((np.exp(np.minimum(change, LARGEST_CHANGE)) - change - 1).mean()),
    )


def _importance_metrics(weights: Sequence[float], correction: Correction) -> dict[str, float]:
    cuts = sum(correction.factor(weight) != weight for weight in weights)
    squares = sum(weight * weight for weight in weights)
    total, cut_total, square, count = all_sum([sum(weights), cuts, squares, len(weights)])
    largest = all_max(max(weights, default=0.0))
    if not count:
        return {}
    metrics = {
        "importance_mean": total / count,
        "importance_max": largest,
        "effective_sample_share": total * total / (count * square),
    }
    return metrics if correction.kind == "none" else metrics | {"importance_cut": cut_total / count}


def importance_weights(
    sequence: TrainSequence, logprobs: Sequence[float], ratio: str
) -> list[float]:
    """exp(logprobs - old_logprobs) of each token [T], 1 where it is not trained.

    `ratio` "turn" and "sequence" give all tokens of a turn or sequence their geometric mean, as the
    loss does.
    """
    pools: dict[int, list[int]] = defaultdict(list)
    for token in _sampled(sequence):
        turn = sequence.turns[token] if sequence.turns else 0
        pools[{"token": token, "turn": turn}.get(ratio, 0)].append(token)
    weights = [1.0] * len(sequence.weights)
    for tokens in pools.values():
        mean = sum(logprobs[token] - sequence.old_logprobs[token] for token in tokens) / len(tokens)
        for token in tokens:
            weights[token] = math.exp(min(mean, LARGEST_CHANGE))
    return weights
