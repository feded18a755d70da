"""CW-GRPO (arXiv 2604.14267): the searches of a good rollout share its advantage by contribution.

Equation: c_k = softmax over the K searches of gamma x usefulness_k x thinking_k; where A_i > 0,
search k gets A_i K c_k, else A_i, with A_i that of GRPO. Read in the released code, in which a
judge scores usefulness and thinking.

Ours: usefulness is what FOLR sees, the worth of the gold answer in what the search found (0 to 1),
and thinking is 1; no judge is asked. The rounds are the searches, so that they keep A_i on average;
a turn without a search, the answer too, keeps A_i. The value of gamma is not known: sharpness 1.
Where no search finds the gold, or all do, this is GRPO.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from tspo_cli.config.sections.section import Section
from tspo_cli.credit.algorithms.algorithm import algorithm
from tspo_cli.credit.algorithms.by_outcome.grpo import grpo
from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory


class CwGrpoOptions(Section):
    """The table [credit.cw_grpo]."""

    sharpness: float = Field(
        1.0, ge=0, description="Gamma: how much more a useful search counts. 0: all count alike."
    )
    useful: Literal["hit", "first_hit"] = Field(
        "hit", description="Every search that finds a gold answer, or only the first of them."
    )


@algorithm(options=CwGrpoOptions)
def cw_grpo(
    trajectories: Sequence[JudgedTrajectory], config: CreditConfig, options: CwGrpoOptions
) -> AlgorithmResult:
    """GRPO's advantage, shared among the searches of a rollout where it is positive."""
    base = grpo(trajectories, config)
    advantages = tuple(
        _shared(trajectory, row, options) if row[0] > 0 else row
        for trajectory, row in zip(trajectories, base.advantages, strict=True)
    )
    return AlgorithmResult(
        base.turn_rewards,
        advantages,
        "turn",
        base.populations,
        reason="CW-GRPO weights the searches of a rollout above the mean by what they found.",
        formula="Advantage = standardised outcome; of a search in a rollout above the mean, times "
        "its share of the contributions and the number of searches.",
    )


def _shared(
    trajectory: JudgedTrajectory, row: Sequence[float], options: CwGrpoOptions
) -> tuple[float, ...]:
    searches = [
        index for index, turn in enumerate(trajectory.trajectory.turns) if turn.query is not None
    ]
    first = (trajectory.first_occurrence or 0) - 1
    useful = [
        trajectory.hits[index] if options.useful == "hit" or index == first else 0.0
        for index in searches
    ]
    if len(set(useful)) < 2:
        return tuple(row)
    highest = max(useful)  # taken off: a large sharpness must not overflow
    powers = [math.exp(options.sharpness * (value - highest)) for value in useful]
    values = list(row)
    for index, power in zip(searches, powers, strict=True):
        values[index] *= len(searches) * power / math.fsum(powers)
    return tuple(values)
