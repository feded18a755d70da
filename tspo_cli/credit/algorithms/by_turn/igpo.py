"""IGPO (Wang et al. 2025, arXiv 2510.14967): a turn earns what it adds to the policy's belief in
the gold answer.

Equation: P_t = exp(mean log-probability of the gold answer's tokens after turn t), P_0 after the
prompt alone; turn t < K earns log P_t - log P_{t-1} (information_gain = "prob_diff": P_t -
P_{t-1}), the last turn the outcome. Gains and outcomes are standardised over the group, separately
(norm = "separate") or together; then A_k = sum over l >= k of gamma^(l-k) of the standardised
rewards. The sum over later turns is part of the method: a trajectory with more turns sums more
terms.

Defaults: biased standard deviation, gamma 1, outcome F1; the released code gives -2 for a missing
answer, here it is F1's 0. The training loop measures the gold log-probabilities with the policy
that is trained.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain, pairwise
from typing import Literal

from pydantic import Field

from tspo_cli.credit.algorithms.algorithm import GoldLogprobOptions, algorithm
from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.discounting import to_go
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory
from tspo_cli.credit.normalise import standardise
from tspo_cli.errors import InvalidInputError


class IgpoOptions(GoldLogprobOptions):
    """The table [credit.igpo]."""

    information_gain: Literal["log_prob_diff", "prob_diff"] = Field(
        "log_prob_diff",
        description="Gain of a turn in the gold answer's log-probability, or in its probability.",
    )
    norm: Literal["separate", "joint"] = Field(
        "separate", description="Standardise gains and outcomes separately, or together."
    )


@algorithm(
    options=IgpoOptions,
    defaults={"credit.outcome": "f1", "credit.std": "biased"},
    needs="gold_logprobs",
)
def igpo(
    trajectories: Sequence[JudgedTrajectory], config: CreditConfig, options: IgpoOptions
) -> AlgorithmResult:
    """Standardised gains, summed from each turn on.

    Raises:
        InvalidInputError: a trajectory without gold log-probabilities.
    """
    gains = [_gains(trajectory, options) for trajectory in trajectories]
    outcomes = tuple(trajectory.outcome for trajectory in trajectories)
    all_gains = tuple(chain.from_iterable(gains))
    populations: tuple[tuple[float, ...], ...]
    labels: tuple[str, ...]
    if options.norm == "joint":
        populations, labels = ((*all_gains, *outcomes),), ("Gains and outcomes",)
        values = standardise(populations[0], config)
    else:
        populations, labels = (all_gains, outcomes), ("Gains", "Outcomes")
        values = standardise(all_gains, config) + standardise(outcomes, config)
    gain, outcome = iter(values[: len(all_gains)]), iter(values[len(all_gains) :])
    normalised = [[*(next(gain) for _ in row), next(outcome)] for row in gains]
    return AlgorithmResult(
        tuple((*row, outcome) for row, outcome in zip(gains, outcomes, strict=True)),
        tuple(to_go(row, config.gamma) for row in normalised),
        "turn",
        tuple(population for population in populations if population),
        reason="IGPO rewards a turn by what it adds to the probability of the gold answer.",
        labels=tuple(
            label for label, population in zip(labels, populations, strict=True) if population
        ),
        formula="Advantage = sum of the standardised rewards from this turn on.",
    )


def _gains(trajectory: JudgedTrajectory, options: IgpoOptions) -> tuple[float, ...]:
    """The K - 1 gains of a trajectory."""
    beliefs = trajectory.trajectory.gold_logprobs
    if len(beliefs) != trajectory.turns:
        raise InvalidInputError(
            "credit.algorithm igpo needs a model: each trajectory's gold_logprobs, the mean "
            "log-probability of the gold answer before each turn; training measures them, a file "
            'may give them as "gold_logprobs": [...]'
        )
    if options.information_gain == "prob_diff":
        beliefs = tuple(map(math.exp, beliefs))
    return tuple(after - before for before, after in pairwise(beliefs))
