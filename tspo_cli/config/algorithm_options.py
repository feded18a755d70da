"""The part of a configuration that depends on the algorithm: its defaults, and a user's options.

Both are written into the resolved configuration, so that a run records what it did.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError

from tspo_cli.config.keys import keys_of
from tspo_cli.config.tables import Table, nest
from tspo_cli.credit.algorithms import ALGORITHMS, Algorithm
from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.find_algorithm import find_algorithm
from tspo_cli.credit.user_code import is_user_code
from tspo_cli.errors import InvalidInputError, MissingResourceError

PREFIX = "credit.options."


class KeyProblem(InvalidInputError):
    """A wrong value or name of the key `key`."""

    def __init__(self, key: str, message: str) -> None:
        super().__init__(f"{key}: {message}")
        self.key = key


def algorithm_defaults(table: Mapping[str, Any]) -> tuple[str, Table]:
    """The algorithm that `table` (as read from files and settings) names, and the values that it
    gives to keys of the experiment. Empty for an unknown algorithm.

    A kind of training that has an algorithm of its own uses it by default. If a user's file does
    not exist, it gives no values: a configuration can still be read, but not trained.

    Raises:
        InvalidInputError: a user's FILE.py:function that cannot be used.
    """
    credit = table.get("credit")
    name = credit.get("algorithm") if isinstance(credit, dict) else None
    if name is None:
        kinds = (entry for entry in ALGORITHMS.values() if entry.kind == table.get("kind", "rl"))
        algorithm = next(kinds, None)
        if algorithm is None:
            return "", {}
        defaults = {"credit.algorithm": algorithm.name, **algorithm.defaults}
    else:
        algorithm = _known_algorithm(name)
        defaults = dict(algorithm.defaults) if algorithm is not None else {}
    return ("", {}) if algorithm is None else (algorithm.name, nest(defaults))


def _known_algorithm(name: Any) -> Algorithm | None:
    """The algorithm of that name. None if there is none, or if the user's file does not exist."""
    if not isinstance(name, str) or not (name in ALGORITHMS or is_user_code(name)):
        return None
    try:
        return find_algorithm(name)
    except MissingResourceError:
        return None


def filled_user_options(config: CreditConfig) -> Table:
    """[credit.options] with the defaults of the user's algorithm, checked against its options.

    Options that belong to no user's algorithm are returned as they are.

    Raises:
        KeyProblem: an unknown option or a wrong value.
    """
    algorithm = _known_algorithm(config.algorithm)
    if algorithm is None or not is_user_code(algorithm.name):
        return config.options
    model = algorithm.options
    known = keys_of(model) if model is not None else {}
    for name in config.options:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {PREFIX}{near[0]}?" if near else f"it has {', '.join(known)}"
            hint = hint if known else "it has no options"
            raise KeyProblem(PREFIX + name, f"unknown option of {config.algorithm}; {hint}")
    if model is None:
        return {}
    try:
        given = json.dumps(config.options, default=str)
        return model.model_validate_json(given, strict=True).model_dump(mode="json")
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        value = json.dumps(config.options[name], ensure_ascii=False, default=str)
        expected = known[name].expects
        raise KeyProblem(PREFIX + name, f"expected {expected}, got {value}") from None
