"""The one entrance: a group in, one advantage per turn out."""

from __future__ import annotations

import difflib

from tspo_cli.config.schema import CreditConfig
from tspo_cli.credit.algorithms import ALGORITHMS, Algorithm
from tspo_cli.credit.folr import judge
from tspo_cli.credit.group import Group, GroupCredit, TrajectoryCredit, group_class
from tspo_cli.errors import InvalidInputError


def find_algorithm(name: str) -> Algorithm:
    """The algorithm of that name. Raises InvalidInputError, with the nearest name, for an unknown one."""
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    near = difflib.get_close_matches(name.lower(), ALGORITHMS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(ALGORITHMS)}"
    raise InvalidInputError(f"credit.algorithm: unknown algorithm {name!r}; {hint}")


def assign_credit(group: Group, config: CreditConfig) -> GroupCredit:
    """The credit of every turn of every trajectory of `group`, in the order given.

    Raises:
        InvalidInputError: unknown algorithm.
    """
    algorithm = find_algorithm(config.algorithm)
    judged = [judge(trajectory, group.golden_answers, config) for trajectory in group.trajectories]
    credit = algorithm(judged, config)
    signal = any(value != 0.0 for row in credit.advantages for value in row)
    return GroupCredit(
        group_class=group_class(judged),
        algorithm=config.algorithm,
        level=credit.level if signal else "none",
        trajectories=tuple(
            TrajectoryCredit(one.outcome, one.trajectory_class, one.first_occurrence, rewards, advantages)
            for one, rewards, advantages in zip(judged, credit.turn_rewards, credit.advantages, strict=True)
        ),
        populations=credit.populations,
        reason=credit.reason,
    )
