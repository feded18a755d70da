"""What turns add to a model's belief in the gold answer, and advantages from it."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, chain, pairwise

from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.discounting import to_go
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory
from tspo_cli.credit.normalise import standardise
from tspo_cli.errors import InvalidInputError


def beliefs(trajectory: JudgedTrajectory, name: str) -> tuple[float, ...]:
    """The K measured log-probabilities of a trajectory (nats), one before each turn.

    Raises:
        InvalidInputError: they were not measured; `name` is the algorithm that asks for them.
    """
    measured = trajectory.trajectory.gold_logprobs
    if len(measured) != trajectory.turns:
        raise InvalidInputError(
            f"credit.algorithm {name} needs a model: each trajectory's gold_logprobs, the mean "
            f"log-probability of the gold answer before each turn; train with {name}, which "
            'records them, or write them into the group file: "gold_logprobs": [one a turn]'
        )
    return measured


def gains(values: Sequence[float]) -> tuple[float, ...]:
    """The K - 1 differences of K values."""
    return tuple(after - before for before, after in pairwise(values))


def gains_over_maximum(values: Sequence[float]) -> tuple[float, ...]:
    """The K - 1 amounts by which a value exceeds all before it, 0 where it does not."""
    return gains(tuple(accumulate(values, max)))


def gains_and_outcomes(
    rows: Sequence[Sequence[float]],
    trajectories: Sequence[JudgedTrajectory],
    config: CreditConfig,
    *,
    joint: bool,
    reason: str,
) -> AlgorithmResult:
    """Gains (`rows`, K - 1 of each trajectory) and the outcome at the last turn, standardised over
    the group, separately or `joint`, and summed from each turn on with credit.gamma.
    """
    outcomes = tuple(trajectory.outcome for trajectory in trajectories)
    all_gains = tuple(chain.from_iterable(rows))
    populations: tuple[tuple[float, ...], ...]
    labels: tuple[str, ...]
    if joint:
        populations, labels = ((*all_gains, *outcomes),), ("Gains and outcomes",)
        values = standardise(populations[0], config)
    else:
        populations, labels = (all_gains, outcomes), ("Gains", "Outcomes")
        values = standardise(all_gains, config) + standardise(outcomes, config)
    gain, outcome = iter(values[: len(all_gains)]), iter(values[len(all_gains) :])
    normalised = [[*(next(gain) for _ in row), next(outcome)] for row in rows]
    return AlgorithmResult(
        tuple((*row, outcome) for row, outcome in zip(rows, outcomes, strict=True)),
        tuple(to_go(row, config.gamma) for row in normalised),
        "turn",
        tuple(population for population in populations if population),
        reason=reason,
        labels=tuple(
            label for label, population in zip(labels, populations, strict=True) if population
        ),
        formula="Advantage = sum of the standardised rewards from this turn on.",
    )
