"""ARPO (arXiv 2507.19849; its successor AEPO, 2510.14545): branch after a search of high entropy; a
turn that branches share has their mean advantage.

Equation: A_i = (y_i - mean y) / (std y + eps) over all rollouts of the question; a turn has the
mean of A_i over the rollouts that share it. shared = "own" leaves each rollout its own A_i on
shared turns too (the paper's soft estimation): as every rollout that shares a turn trains it, both
have the same gradient where the ratio is 1 and loss.aggregation is token_mean; they differ where
the loss clips, or divides by the length of each rollout.

Source: second-hand notes about the paper (branching after a tool call by entropy, and the mean on
the shared prefix: certain). The paper branches while a rollout runs, if alpha + beta x (rise of
the entropy over the first turn's) exceeds a threshold; here a turn is expanded after its rollout
has ended, if the rise exceeds tree.least_gain, which is the same rule, the largest rise first. The
entropy is estimated from the sampled tokens (tree.entropy_tokens; the paper takes the first
ones). Without branches it is GRPO.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from tspo_cli.config.sections.section import Section
from tspo_cli.credit.algorithms.algorithm import algorithm
from tspo_cli.credit.algorithms.by_outcome.grpo import grpo
from tspo_cli.credit.algorithms.by_tree.tree_shape import is_branched, node_means, nodes
from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory


class ArpoOptions(Section):
    """The table [credit.arpo]."""

    shared: Literal["mean", "own"] = Field(
        "mean",
        description="Advantage of a shared turn: the mean of those that share it, or each its own.",
    )


@algorithm(
    options=ArpoOptions,
    defaults={"tree.branching": "after_search", "tree.entropy_tokens": 20},
)
def arpo(
    trajectories: Sequence[JudgedTrajectory], config: CreditConfig, options: ArpoOptions
) -> AlgorithmResult:
    """The mean of z over the rollouts that share a turn."""
    whole = grpo(trajectories, config)
    rows = nodes(trajectories)
    if options.shared == "own" or not is_branched(rows):
        return whole
    means = node_means(rows, [row[0] for row in whole.advantages])
    return AlgorithmResult(
        whole.turn_rewards,
        tuple(tuple(means[node] for node in row) for row in rows),
        "turn",
        whole.populations,
        reason="ARPO compares the outcomes of all rollouts; a turn that several share has the mean "
        "of their advantages.",
    )
