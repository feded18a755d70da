"""Tree-GRPO (arXiv 2509.21240): compare a rollout with those of its tree and with all of its
question.

Equation: A = intra * z within the tree + z over all rollouts of the question, at every turn of the
rollout; z = (y - mean y) / (std y + eps). A tree has the rollouts that begin with the same turn. A
turn that n rollouts share is trained with the sum of their advantages, as n whole sequences would.

Source: second-hand notes about the paper (sum of both comparisons: certain; a tree of one rollout
adds 0, here as in every comparison of one). Trees grow from random turns (tree.branching =
"random"), as in the paper: M roots, then turns that are drawn, here evenly among the contexts that
they continue. The budget is this package's own: see docs/trees.md. Without branches it is GRPO.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from tspo_cli.config.sections.section import Section
from tspo_cli.credit.algorithms.algorithm import algorithm, outcomes_last
from tspo_cli.credit.algorithms.by_outcome.grpo import grpo
from tspo_cli.credit.algorithms.by_tree.tree_shape import is_branched, members, nodes
from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory
from tspo_cli.credit.normalise import standardise


class TreeGrpoOptions(Section):
    """The table [credit.tree_grpo]."""

    intra: float = Field(
        1.0, ge=0, description="Weight of the comparison within a tree. 0: GRPO over all rollouts."
    )


@algorithm(options=TreeGrpoOptions, defaults={"tree.branching": "random"})
def tree_grpo(
    trajectories: Sequence[JudgedTrajectory], config: CreditConfig, options: TreeGrpoOptions
) -> AlgorithmResult:
    """A = intra * z within the tree + z over all."""
    everything = grpo(trajectories, config)
    rows = nodes(trajectories)
    if not is_branched(rows) or not options.intra:
        return everything
    outcomes = [trajectory.outcome for trajectory in trajectories]
    within = [0.0] * len(outcomes)
    trees = [tree for tree in members([row[0] for row in rows]) if len(tree) > 1]
    for tree in trees:
        for index, value in zip(
            tree, standardise([outcomes[index] for index in tree], config), strict=True
        ):
            within[index] = value
    return AlgorithmResult(
        outcomes_last(trajectories),
        tuple(
            tuple(options.intra * value + whole for whole in row)
            for value, row in zip(within, everything.advantages, strict=True)
        ),
        "trajectory",
        (*everything.populations, *(tuple(outcomes[index] for index in tree) for tree in trees)),
        reason="Tree-GRPO compares the outcomes of all rollouts, and those of each tree.",
        labels=("All rollouts", *(f"Tree {number}" for number in range(1, len(trees) + 1))),
        formula=f"Advantage = {options.intra:g} x the outcome standardised within its tree + the "
        "outcome standardised over all rollouts.",
    )
