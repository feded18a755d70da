"""From the key credit.algorithm to the algorithm: a registered one, or the user's own."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from tspo_cli.credit.algorithms import ALGORITHMS, Algorithm
from tspo_cli.credit.algorithms.algorithm import outcomes_last
from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory
from tspo_cli.credit.user_code import (
    call_function,
    finite_number,
    is_user_code,
    load_function,
)
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
    if name.endswith(".py"):
        raise InvalidInputError(
            f"credit.algorithm: {name!r} names no function of the file; write {name}:FUNCTION"
        )
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

    def complete(trajectories: Sequence[JudgedTrajectory], *others: Any) -> AlgorithmResult:
        # It may change its list, and numbers and lists that it returns may be the user's, too.
        returned = declared.rule(list(trajectories), *others)
        return _checked(returned, trajectories, name, _description(declared.rule))

    def rule(
        trajectories: Sequence[JudgedTrajectory], config: CreditConfig, *options: Any
    ) -> AlgorithmResult:
        arguments = (trajectories, config, *options)
        result: AlgorithmResult = call_function(complete, name, "credit.algorithm", *arguments)
        return result

    return replace(declared, name=name, rule=rule, table="options")


def _description(function: object) -> str:
    """The first paragraph of what the user wrote about a function."""
    text = inspect.getdoc(function) if inspect.isfunction(function) else None
    return " ".join((text or "Its function has no docstring.").split("\n\n")[0].split())


def _checked(
    returned: Any, trajectories: Sequence[JudgedTrajectory], name: str, described: str
) -> AlgorithmResult:
    """What a user's function returned, with one finite reward and advantage per turn."""
    if isinstance(returned, AlgorithmResult):
        if returned.level not in ("turn", "trajectory"):
            raise _wrong(name, f'level "turn" or "trajectory", got {_shown(returned.level)}')
        result = replace(
            returned,
            turn_rewards=_rows(returned.turn_rewards, "rewards", name),
            advantages=_rows(returned.advantages, "advantages", name),
            populations=_rows(returned.populations, "populations", name),
            labels=tuple(map(str, returned.labels)),
            clip_scales=_rows(returned.clip_scales, "clip scales", name),
        )
    else:
        result = AlgorithmResult(
            outcomes_last(trajectories),
            _rows(returned, "advantages", name),
            "turn",
            reason=f"The advantages are those of {name}.",
            formula=described,
        )
    if result.labels and len(result.labels) != len(result.populations):
        counts = f"{len(result.populations)}, got {len(result.labels)}"
        raise _wrong(name, f"a label for each of the populations, {counts}")
    if not all(result.populations):
        raise _wrong(name, "populations with values")
    turns = [trajectory.turns for trajectory in trajectories]
    by_turn = {"advantage": result.advantages, "reward": result.turn_rewards}
    if result.clip_scales:
        by_turn["clip scale"] = result.clip_scales
        if min(chain.from_iterable(result.clip_scales), default=0.0) < 0:
            raise _wrong(name, "clip scales of 0 or more")
    for what, rows in by_turn.items():
        lengths = [len(row) for row in rows]
        if lengths != turns:
            raise _wrong(name, f"one {what} per turn, {turns}, got {lengths}")
    return result


def _rows(returned: Any, what: str, name: str) -> tuple[tuple[float, ...], ...]:
    """Lists of finite numbers, of any type that is a number."""
    rows = _items(returned)
    if rows is None:
        raise _wrong(name, f"a list of {what} per trajectory, got {_shown(returned)}")
    numbers = []
    for place, row in enumerate(rows, start=1):
        values = _items(row)
        if values is None:
            raise _wrong(name, f"{what} {place} to be a list of numbers, got {_shown(row)}")
        read = [finite_number(value) for value in values]
        if None in read:
            at = read.index(None)
            shown = _shown(values[at])
            raise _wrong(name, f"finite numbers in {what} {place}, got {shown} for turn {at + 1}")
        numbers.append(tuple(value for value in read if value is not None))
    return tuple(numbers)


def _items(value: Any) -> list[Any] | None:
    """The items of a list, tuple, array or tensor; None for anything else."""
    if isinstance(value, str | bytes | dict | set):
        return None
    try:
        return list(value)
    except TypeError:  # also a tensor without dimensions
        return None


def _shown(value: Any) -> str:
    """A value on one line: its type, and what it is if that is short."""
    text = " ".join(repr(value).split())
    return f"{type(value).__name__} {text}" if len(text) <= 40 else type(value).__name__


def _wrong(name: str, expected: str) -> InvalidInputError:
    return InvalidInputError(
        f"credit.algorithm {name}: expected {expected}; fix: correct what the function returns"
    )
