"""Stratified GRPO (arXiv 2510.06214, ICML 2026): compare rollouts that searched equally often.

Equation: A_i = a z_stratum(y_i) + (1 - a) z_group(y_i), where z = (y - mean y) / (std y + eps) over
the rollouts of the group with as many searches, and over the whole group. The blend is read in the
abstract and in summaries of the paper. They give no value for a, which is therefore an option:
0.5.

A stratum of one rollout, or of equal outcomes, has z_stratum 0, as GRPO has for such a group. With
one stratum the advantages are those of GRPO, bit for bit.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from tspo_cli.config.sections.section import Section
from tspo_cli.credit.algorithms.algorithm import algorithm, outcomes_last, repeat_over_turns
from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory
from tspo_cli.credit.normalise import standardise


class StratifiedGrpoOptions(Section):
    """The table [credit.stratified_grpo]."""

    coef: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Weight of the comparison within the stratum; the rest is the group's.",
    )
    strata: Literal["searches", "turns"] = Field(
        "searches", description="Rollouts with this number in common are a stratum."
    )


@algorithm(options=StratifiedGrpoOptions)
def stratified_grpo(
    trajectories: Sequence[JudgedTrajectory], config: CreditConfig, options: StratifiedGrpoOptions
) -> AlgorithmResult:
    """A_i = z_group + a (z_stratum - z_group)."""
    outcomes = [trajectory.outcome for trajectory in trajectories]
    strata: dict[int, list[int]] = defaultdict(list)
    for index, trajectory in enumerate(trajectories):
        strata[_stratum(trajectory, options)].append(index)
    group = standardise(outcomes, config)
    values = list(group)
    for members in strata.values():
        within = standardise([outcomes[index] for index in members], config)
        for index, value in zip(members, within, strict=True):
            values[index] += options.coef * (value - group[index])
    numbers = sorted(strata)
    one = "turn" if options.strata == "turns" else "search"
    names = (f"{number} {one if number == 1 else options.strata}" for number in numbers)
    return AlgorithmResult(
        outcomes_last(trajectories),
        repeat_over_turns(values, trajectories),
        "trajectory",
        (
            tuple(outcomes),
            *(tuple(outcomes[index] for index in strata[number]) for number in numbers),
        ),
        reason=f"Rollouts are compared with those of as many {options.strata}, and with the group.",
        labels=("Group", *(f"Rollouts with {name}" for name in names)),
        formula=f"Advantage = {options.coef:g} of the stratum's + {1 - options.coef:g} of the "
        "group's standardised outcome.",
    )


def _stratum(trajectory: JudgedTrajectory, options: StratifiedGrpoOptions) -> int:
    if options.strata == "turns":
        return trajectory.turns
    return sum(turn.query is not None for turn in trajectory.trajectory.turns)
