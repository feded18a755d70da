"""A2TGPO (arXiv 2605.06200): GRPO plus normalised information gains of turns, and a clip range for
each turn.

Equation: g_t = z-score of turn t's information gain over the turns of the same number in the group;
D_t = sum over j >= t of gamma^(j-t) g_j / sqrt(n - t), with n the number of gains and t from 0;
A_t = 0.3 D_t + A_outcome; the clip range of turn t is that of the loss times
1 + 0.3 (2 sigmoid(g_t) - 1).

Source: a walk-through of its verl fork; A_t and the 0.3 also from the tests of a re-implementation.
gamma 1 is less certain. Our choices: the gain is IGPO's (log P after the turn less log P before
it), the last turn has none, so its advantage is the outcome's and its clip range the loss's. The
ratio is that of a turn (loss.ratio).

Turns are those of the rollout. The released code finds their borders where the advantage changes,
which joins neighbours of equal advantage; here two turns stay two turns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from tspo_cli.credit.algorithms.algorithm import GoldLogprobOptions, algorithm, outcomes_last
from tspo_cli.credit.algorithms.by_outcome.grpo import grpo
from tspo_cli.credit.algorithms.by_turn.information_gain import beliefs, gains
from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.discounting import to_go
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory
from tspo_cli.credit.normalise import per_turn_index, pooled_turns


class A2tgpoOptions(GoldLogprobOptions):
    """The table [credit.a2tgpo]."""

    information_gain: Literal["log_prob_diff", "prob_diff", "off"] = Field(
        "log_prob_diff",
        description="Gain in the gold answer's log-probability or probability. off: GRPO.",
    )
    coef: float = Field(0.3, ge=0, description="Weight of the summed gains in the advantage.")
    clip_coef: float = Field(
        0.3, ge=0, le=1, description="How much a turn's gain widens or narrows its clip range."
    )
    norm: Literal["per_turn_index", "pooled_turns"] = Field(
        "per_turn_index",
        description="Gains are compared with those of the same turn number, or of all turns.",
    )
    rescale: Literal["sqrt", "none"] = Field(
        "sqrt", description="Divide the sum of n gains by the square root of n, or by nothing."
    )

    @property
    def measures(self) -> bool:
        """False where the information gain is off."""
        return self.information_gain != "off"


@algorithm(options=A2tgpoOptions, defaults={"loss.ratio": "turn"}, needs="gold_logprobs")
def a2tgpo(
    trajectories: Sequence[JudgedTrajectory], config: CreditConfig, options: A2tgpoOptions
) -> AlgorithmResult:
    """A_t = coef D_t + A_outcome, and a clip scale for each turn.

    Raises:
        InvalidInputError: a trajectory without gold log-probabilities.
    """
    outcome = grpo(trajectories, config)
    if not options.measures:
        return outcome
    rows = [_gains(trajectory, options) for trajectory in trajectories]
    normalise = per_turn_index if options.norm == "per_turn_index" else pooled_turns
    normalised, populations = normalise(rows, config)
    advantages, scales = [], []
    for row, base in zip(normalised, outcome.advantages, strict=True):
        sums = [*_rescaled(to_go(row, config.gamma), options), 0.0]
        advantages.append(tuple(options.coef * d + a for d, a in zip(sums, base, strict=True)))
        scales.append((*(1 + options.clip_coef * math.tanh(gain / 2) for gain in row), 1.0))
    per_turn = options.norm == "per_turn_index"
    return AlgorithmResult(
        tuple(
            (*row, rewards[-1])
            for row, rewards in zip(rows, outcomes_last(trajectories), strict=True)
        ),
        tuple(advantages),
        "turn",
        (*outcome.populations, *(population for population in populations if population)),
        reason="A2TGPO adds to GRPO what a turn and those after it add to the belief in the gold.",
        labels=(
            "Outcomes",
            *(
                f"Gains of turn {number}" if per_turn else "Gains"
                for number, population in enumerate(populations, start=1)
                if population
            ),
        ),
        formula=f"Advantage = the outcome's + {options.coef:g} x the rescaled sum of the "
        "standardised gains from this turn on.",
        clip_scales=tuple(scales),
    )


def _gains(trajectory: JudgedTrajectory, options: A2tgpoOptions) -> tuple[float, ...]:
    measured = beliefs(trajectory, "a2tgpo")
    as_probability = options.information_gain == "prob_diff"
    return gains(tuple(map(math.exp, measured)) if as_probability else measured)


def _rescaled(sums: Sequence[float], options: A2tgpoOptions) -> list[float]:
    """Each sum over the square root of how many gains it has."""
    if options.rescale == "none":
        return list(sums)
    return [value / math.sqrt(len(sums) - index) for index, value in enumerate(sums)]
