"""Groups in, one advantage per turn out: the entrance to credit assignment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tspo_cli.credit.algorithms import Algorithm
from tspo_cli.credit.algorithms.by_tree.tree_shape import is_branched, nodes
from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.find_algorithm import find_algorithm
from tspo_cli.credit.folr import judge
from tspo_cli.credit.group import (
    Group,
    GroupCredit,
    Level,
    TrajectoryCredit,
    group_class,
)
from tspo_cli.credit.normalise import AllSum, batch_mean_and_scale
from tspo_cli.credit.turn_baseline import without_turn_count
from tspo_cli.errors import InvalidInputError


def assign_credit(group: Group, config: CreditConfig) -> GroupCredit:
    """The credit of a single group, as a batch of its own. Trajectories and turns keep their order.

    Raises:
        InvalidInputError: unknown algorithm, or one that needs what the group does not have.
    """
    if "critic" in find_algorithm(config.algorithm).needs:
        raise InvalidInputError(
            f"credit.algorithm {config.algorithm} needs a model: its advantages come from the "
            "values of a critic, which only `tspo train` has"
        )
    return assign_batch([group], config)[0]


def assign_batch(
    groups: Sequence[Group], config: CreditConfig, all_sum: AllSum = list, *, whiten: bool = True
) -> list[GroupCredit]:
    """The credit of all groups of a batch. `all_sum` adds numbers over all training processes, each
    of which has its own groups.

    An algorithm with a critic gives turn rewards without advantages here. With `whiten` False the
    caller standardises the advantages of the batch, for algorithms that do.

    Raises:
        InvalidInputError: unknown algorithm, or one that needs what a group does not have.
    """
    algorithm = find_algorithm(config.algorithm)
    credits = [_assign(group, algorithm, config) for group in groups]
    if algorithm.whiten and whiten:
        credits = _whitened(groups, credits, config, all_sum)
    return credits


def _assign(group: Group, algorithm: Algorithm, config: CreditConfig) -> GroupCredit:
    judged = [judge(trajectory, group.golden_answers, config) for trajectory in group.trajectories]
    credit = algorithm(judged, config)
    if config.turn_count_baseline:
        if is_branched(nodes(judged)):
            raise InvalidInputError(
                "credit.turn_count_baseline: not for rollouts that branch, which would change a "
                "shared turn by several amounts; set it to false"
            )
        outcomes = [trajectory.outcome for trajectory in judged]
        credit = replace(
            credit, level="turn", advantages=without_turn_count(credit.advantages, outcomes)
        )
    clip_scales = credit.clip_scales or ((),) * len(judged)
    return GroupCredit(
        group_class=group_class(judged),
        algorithm=config.algorithm,
        level=credit.level if _any(credit.advantages) else "none",
        trajectories=tuple(
            TrajectoryCredit(
                trajectory.outcome,
                trajectory.trajectory_class,
                trajectory.first_occurrence,
                rewards,
                advantages,
                scales,
            )
            for trajectory, rewards, advantages, scales in zip(
                judged, credit.turn_rewards, credit.advantages, clip_scales, strict=True
            )
        ),
        populations=credit.populations,
        reason=credit.reason,
        labels=credit.labels,
        formula=credit.formula,
    )


def with_advantages(credit: GroupCredit, advantages: Sequence[Sequence[float]]) -> GroupCredit:
    """The same credit with other advantages, one row per trajectory."""
    rows = [tuple(row) for row in advantages]
    differ = any(len(set(row)) > 1 for row in rows)
    level: Level = "none" if not _any(rows) else "turn" if differ else "trajectory"
    trajectories = tuple(
        replace(trajectory, advantages=row)
        for trajectory, row in zip(credit.trajectories, rows, strict=True)
    )
    return replace(credit, level=level, trajectories=trajectories)


def _whitened(
    groups: Sequence[Group], credits: Sequence[GroupCredit], config: CreditConfig, all_sum: AllSum
) -> list[GroupCredit]:
    """(A - mean) / (std + eps) over the sampled tokens of all groups; exact zeros where all
    advantages are equal.
    """
    tokens = [
        (turn.tokens, advantage)
        for group, credit in zip(groups, credits, strict=True)
        for trajectory, assigned in zip(group.trajectories, credit.trajectories, strict=True)
        for turn, advantage in zip(trajectory.turns, assigned.advantages, strict=True)
    ]
    mean, scale = batch_mean_and_scale(
        tokens, config.eps, all_sum, unbiased=config.std == "unbiased"
    )
    return [
        with_advantages(
            credit,
            [
                [(value - mean) * scale for value in trajectory.advantages]
                for trajectory in credit.trajectories
            ],
        )
        for credit in credits
    ]


def _any(rows: Sequence[Sequence[float]]) -> bool:
    return any(value != 0.0 for row in rows for value in row)
