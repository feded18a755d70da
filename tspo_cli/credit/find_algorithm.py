"""From the key credit.algorithm to the algorithm: a registered one, or the user's own."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from tspo_cli.credit.algorithms import ALGORITHMS, Algorithm
from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory
from tspo_cli.credit.user_code import call_function, is_user_code, load_function
from tspo_cli.errors import InvalidInputError


def find_algorithm(name: str) -> Algorithm:
    """The algorithm called `name`, or the user's own if it is FILE.py:function.

    A user's function takes the group's trajectories (`JudgedTrajectory`) and the [credit] section,
    and returns one list of advantages per trajectory, one advantage per turn; or an
    `AlgorithmResult`. Decorated with `tspo_cli.credit.algorithms.algorithm` it may also declare
    options, which it takes as third argument (the experiment sets them in [credit.options]), and
    defaults.

    Raises:
        InvalidInputError: an unknown name (with the nearest one), or a file without such a
        function. MissingResourceError: no such file.
    """
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    if is_user_code(name):
        return _user_algorithm(name)
    near = difflib.get_close_matches(name.lower(), ALGORITHMS, n=1)
    hint = (
        f"did you mean {near[0]}?"
        if near
        else f"choose one of {', '.join(ALGORITHMS)}, or FILE.py:function"
    )
    raise InvalidInputError(f"credit.algorithm: unknown algorithm {name!r}; {hint}")


def _user_algorithm(name: str) -> Algorithm:
    function = load_function(name, "credit.algorithm")
    declared = function if isinstance(function, Algorithm) else Algorithm(name, function)

    def complete(*arguments: Any) -> Any:
        returned = declared.rule(*arguments)
        return list(returned) if isinstance(returned, Iterator) else returned

    def rule(
        trajectories: Sequence[JudgedTrajectory], config: CreditConfig, *options: Any
    ) -> AlgorithmResult:
        arguments = (trajectories, config, *options)
        returned = call_function(complete, name, "credit.algorithm", *arguments)
        return _checked(returned, trajectories, name)

    return replace(declared, name=name, rule=rule, table="options")


def _checked(returned: Any, trajectories: Sequence[JudgedTrajectory], name: str) -> AlgorithmResult:
    """What a user's function returned, with one finite advantage per turn."""
    result = returned
    if not isinstance(result, AlgorithmResult):
        try:
            rows = tuple(tuple(float(value) for value in row) for row in returned)
        except (TypeError, ValueError):
            raise _wrong(
                name, f"a list of advantages per trajectory, got {type(returned).__name__}"
            ) from None
        rewards = tuple(
            (0.0,) * (trajectory.turns - 1) + (trajectory.outcome,) for trajectory in trajectories
        )
        result = AlgorithmResult(
            rewards,
            rows,
            "turn",
            reason=f"The advantages are those of {name}.",
            formula="Your own rule.",
        )
    turns = [trajectory.turns for trajectory in trajectories]
    for what, rows in (("advantage", result.advantages), ("reward", result.turn_rewards)):
        lengths = [len(row) for row in rows]
        if lengths != turns:
            raise _wrong(name, f"one {what} per turn, {turns}, got {lengths}")
        if not all(math.isfinite(value) for row in rows for value in row):
            raise _wrong(name, "finite numbers")
    return result


def _wrong(name: str, expected: str) -> InvalidInputError:
    return InvalidInputError(
        f"credit.algorithm {name}: expected {expected}; fix: correct what the function returns"
    )
