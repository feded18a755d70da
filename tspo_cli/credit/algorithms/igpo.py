"""IGPO (Wang et al. 2025, arXiv 2510.14967): a turn earns what it adds to the policy's belief in
the gold answer.

Equation: P_t = exp(mean log-probability of the gold answer's tokens after turn t), P_0 after the
prompt alone; turn t < K earns log P_t - log P_{t-1} (information_gain = "prob_diff": P_t -
P_{t-1}), the last turn the outcome. Gains and outcomes are standardised over the group, apart
(igpo_norm = "separate") or together; then A_k = sum over l >= k of gamma^(l-k) of the standardised
rewards. Defaults: biased standard deviation, gamma 1, outcome F1; the released code gives -2 for a
missing answer, here it is F1's 0. The sum over later turns is part of the method: a trajectory with
more turns sums more terms.

The gold log-probabilities come from the policy that is trained, measured by the training loop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain, pairwise

from tspo_cli.config.schema import CreditConfig
from tspo_cli.credit.discounting import to_go
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory
from tspo_cli.credit.normalise import standardise
from tspo_cli.errors import InvalidInputError


def igpo(trajectories: Sequence[JudgedTrajectory], config: CreditConfig) -> AlgorithmResult:
    """Standardised gains, then their sums from each turn on.

    Raises:
        InvalidInputError: a trajectory without gold log-probabilities.
    """
    gains = [_gains(one, config) for one in trajectories]
    outcomes = tuple(one.outcome for one in trajectories)
    all_gains = tuple(chain.from_iterable(gains))
    if config.igpo_norm == "joint":
        populations, labels = ((*all_gains, *outcomes),), ("Gains and outcomes",)
        values = standardise(populations[0], config)
    else:
        populations, labels = (all_gains, outcomes), ("Gains", "Outcomes")  # type: ignore[assignment]
        values = standardise(all_gains, config) + standardise(outcomes, config)
    gain, outcome = iter(values[: len(all_gains)]), iter(values[len(all_gains) :])
    normalised = [[*(next(gain) for _ in row), next(outcome)] for row in gains]
    return AlgorithmResult(
        tuple((*row, one.outcome) for row, one in zip(gains, trajectories, strict=True)),
        tuple(to_go(row, config.gamma) for row in normalised),
        "turn",
        tuple(population for population in populations if population),
        reason="IGPO rewards a turn by what it adds to the probability of the gold answer.",
        labels=tuple(
            label for label, population in zip(labels, populations, strict=True) if population
        ),
        formula="Advantage = sum of the standardised rewards from this turn on.",
    )


def _gains(one: JudgedTrajectory, config: CreditConfig) -> tuple[float, ...]:
    """The K - 1 gains of a trajectory."""
    beliefs = one.trajectory.gold_logprobs
    if len(beliefs) != one.turns:
        raise InvalidInputError(
            "credit.algorithm igpo needs a model: each trajectory's gold_logprobs, the mean "
            "log-probability of the "
            "gold answer before each turn; training measures it, a file may give it as "
            '"gold_logprobs": [...]'
        )
    if config.information_gain == "prob_diff":
        beliefs = tuple(map(math.exp, beliefs))
    return tuple(after - before for before, after in pairwise(beliefs))
