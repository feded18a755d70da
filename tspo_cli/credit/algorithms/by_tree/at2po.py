"""AT2PO (arXiv 2601.04767): the value of a turn is made of the values of the turns that follow it.

Equation: a leaf has V = (y - mean y) / (std y + eps); a turn has V_n = sum of w_c V_c over its
continuations c, with w = softmax(V_c / temperature); A_n = V_n at the tokens of turn n.
Continuations are different turns after the same one. The ratio is that of a turn, the geometric
mean of its tokens' (loss.ratio), and trees grow from the most uncertain turns.

Source: the released code, read by others (leaf values, softmax-weighted means, turn ratio,
expansion of the K most uncertain turns: certain). Not certain: whether mean and std are over the
rollouts of the question or of one tree (leaves), and the softmax's temperature. tree.turns is K.
Without branches it is GRPO.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from tspo_cli.config.sections.section import Section
from tspo_cli.credit.algorithms.algorithm import algorithm, outcomes_last
from tspo_cli.credit.algorithms.by_outcome.grpo import grpo
from tspo_cli.credit.algorithms.by_tree.tree_shape import (
    is_branched,
    members,
    nodes,
    values_of_turns,
)
from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory
from tspo_cli.credit.normalise import standardise


class At2poOptions(Section):
    """The table [credit.at2po]."""

    leaves: Literal["question", "tree"] = Field(
        "question",
        description="Rollouts that mean and standard deviation of a leaf's value are over.",
    )
    temperature: float = Field(
        1.0, gt=0, description="Of the softmax that weights the continuations of a turn."
    )


@algorithm(options=At2poOptions, defaults={"tree.branching": "uncertain", "loss.ratio": "turn"})
def at2po(
    trajectories: Sequence[JudgedTrajectory], config: CreditConfig, options: At2poOptions
) -> AlgorithmResult:
    """A_n = V_n."""
    if not is_branched(nodes(trajectories)):
        return grpo(trajectories, config)
    leaves, populations = leaf_values(trajectories, config, options.leaves)
    return AlgorithmResult(
        outcomes_last(trajectories),
        turn_values(trajectories, leaves, options.temperature),
        "turn",
        populations,
        reason="AT2PO: a turn is worth what its continuations are worth.",
        formula="Advantage of a last turn = its standardised outcome; of an earlier one = the mean "
        "of its continuations' advantages, with softmax weights (temperature "
        f"{options.temperature:g}).",
    )


def leaf_values(
    trajectories: Sequence[JudgedTrajectory], config: CreditConfig, over: str
) -> tuple[list[float], tuple[tuple[float, ...], ...]]:
    """The standardised outcome of each trajectory, over the "question" or its "tree", and what was
    compared.
    """
    outcomes = [trajectory.outcome for trajectory in trajectories]
    keys = [row[0] if over == "tree" else None for row in nodes(trajectories)]
    values, populations = [0.0] * len(outcomes), []
    for group in members(keys):
        population = tuple(outcomes[index] for index in group)
        populations.append(population)
        for index, value in zip(group, standardise(population, config), strict=True):
            values[index] = value
    return values, tuple(populations)


def turn_values(
    trajectories: Sequence[JudgedTrajectory], leaves: Sequence[float], temperature: float
) -> tuple[tuple[float, ...], ...]:
    """V_n at each turn of each trajectory, from the values of the leaves."""
    rows = nodes(trajectories)
    values = values_of_turns(rows, leaves, temperature)
    return tuple(tuple(values[node] for node in row) for row in rows)
