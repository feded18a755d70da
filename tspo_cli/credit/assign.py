"""The one entrance: groups in, one advantage per turn out."""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from tspo_cli.config.schema import CreditConfig
from tspo_cli.credit.algorithms import ALGORITHMS, Algorithm
from tspo_cli.credit.folr import judge
from tspo_cli.credit.group import (
    AlgorithmResult,
    Group,
    GroupCredit,
    JudgedTrajectory,
    Level,
    TrajectoryCredit,
    group_class,
)
from tspo_cli.credit.normalise import AllSum, batch_mean_and_scale
from tspo_cli.credit.user_code import is_user_code, load_function
from tspo_cli.errors import InvalidInputError


def find_algorithm(name: str) -> Algorithm:
    """The algorithm of that name, or the user's own where it is FILE.py:function.

    A user's function takes the group's trajectories (`JudgedTrajectory`) and the options, and
    returns one list of advantages per trajectory, one advantage per turn; or an `AlgorithmResult`.

    Raises:
        InvalidInputError: an unknown name (with the nearest one), or a file without such a
        function. MissingResourceError: no such file.
    """
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    if is_user_code(name):
        function = load_function(name, "credit.algorithm")
        return Algorithm(
            lambda trajectories, config: _checked(
                function(trajectories, config), trajectories, name
            )
        )
    near = difflib.get_close_matches(name.lower(), ALGORITHMS, n=1)
    hint = (
        f"did you mean {near[0]}?"
        if near
        else f"choose one of {', '.join(ALGORITHMS)}, or FILE.py:function"
    )
    raise InvalidInputError(f"credit.algorithm: unknown algorithm {name!r}; {hint}")


def assign_credit(group: Group, config: CreditConfig) -> GroupCredit:
    """The credit of every turn of every trajectory of `group`, in the order given; the group is the
    whole batch.

    Raises:
        InvalidInputError: unknown algorithm, or one that needs what the group does not have.
    """
    if find_algorithm(config.algorithm).needs == "critic":
        raise InvalidInputError(
            f"credit.algorithm {config.algorithm} needs a model: its advantages come from a "
            "critic's values, which "
            "training has and a file of texts has not; `tspo train` applies it"
        )
    return assign_batch([group], config)[0]


def assign_batch(
    groups: Sequence[Group], config: CreditConfig, all_sum: AllSum = list, *, whiten: bool = True
) -> list[GroupCredit]:
    """The credit of all groups of a batch. `all_sum` adds over the processes that have the other
    groups.

    Of an algorithm with a critic these are the turn rewards, without advantages. `whiten` False
    leaves to the caller what some algorithms do with the batch as a whole.

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
    credit = algorithm.assign(judged, config)
    return GroupCredit(
        group_class=group_class(judged),
        algorithm=config.algorithm,
        level=credit.level if _any(credit.advantages) else "none",
        trajectories=tuple(
            TrajectoryCredit(
                one.outcome, one.trajectory_class, one.first_occurrence, rewards, advantages
            )
            for one, rewards, advantages in zip(
                judged, credit.turn_rewards, credit.advantages, strict=True
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
        replace(one, advantages=row) for one, row in zip(credit.trajectories, rows, strict=True)
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
            [[(value - mean) * scale for value in one.advantages] for one in credit.trajectories],
        )
        for credit in credits
    ]


def _checked(found: Any, trajectories: Sequence[JudgedTrajectory], name: str) -> AlgorithmResult:
    """What a user's algorithm returned, with one finite advantage per turn."""
    if isinstance(found, AlgorithmResult):
        credit = found
    else:
        try:
            rows = tuple(tuple(float(value) for value in row) for row in found)
        except (TypeError, ValueError):
            raise _wrong(
                name, f"a list of advantages per trajectory, got {type(found).__name__}"
            ) from None
        rewards = tuple((0.0,) * (one.turns - 1) + (one.outcome,) for one in trajectories)
        credit = AlgorithmResult(
            rewards,
            rows,
            "turn",
            reason=f"The advantages are those of {name}.",
            formula="Your own rule.",
        )
    turns = [one.turns for one in trajectories]
    if [len(row) for row in credit.advantages] != turns:
        raise _wrong(
            name, f"one advantage per turn, {turns}, got {[len(row) for row in credit.advantages]}"
        )
    if [len(row) for row in credit.turn_rewards] != turns:
        raise _wrong(
            name, f"one reward per turn, {turns}, got {[len(row) for row in credit.turn_rewards]}"
        )
    if not all(
        math.isfinite(value) for row in (*credit.advantages, *credit.turn_rewards) for value in row
    ):
        raise _wrong(name, "finite numbers")
    return credit


def _wrong(name: str, expected: str) -> InvalidInputError:
    return InvalidInputError(
        f"credit.algorithm {name}: expected {expected}; fix: correct what the function returns"
    )


def _any(rows: Sequence[Sequence[float]]) -> bool:
    return any(value != 0.0 for row in rows for value in row)
