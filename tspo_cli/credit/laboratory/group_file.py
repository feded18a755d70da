"""Read a group of trajectories from a JSON file that people and other programs can write.

    {"question": "...", "golden_answers": ["..."], "trajectories": [
        {"answer": "...", "turns": [{"query": "...", "feedback": "..."}, {}]}]}

One entry per turn; the answering turn has no query and no feedback. "answer" may be null or absent.
A turn may also hold "text", all that the model wrote in it, for the options hit_source and outcome
em_format. Without it the model is taken to have written its query, or its answer in the last turn,
and nothing else. "tokens" is how many tokens a turn sampled (1 without it; reinforce_pp and
overlong_limit count them), and a trajectory's "gold_logprobs" what igpo needs. "judge" is the
verdict of a judge on its answer, 1 or 0, for the outcome judge. Where rollouts share turns,
"path" has for each turn a number: trajectories with the same number at a turn share it and all
turns before it, and each has a last turn of its own.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from tspo_cli.console import agreeing, counted
from tspo_cli.credit.group import CreditTrajectory, CreditTurn, Group
from tspo_cli.errors import InvalidInputError
from tspo_cli.runs import read_json

_GROUP_KEYS = ("question", "golden_answers", "trajectories")
_TRAJECTORY_KEYS = ("answer", "turns", "gold_logprobs", "judge", "path")
_TEXT_KEYS = ("query", "feedback", "text")
_TURN_KEYS = (*_TEXT_KEYS, "tokens")
_LOWEST, _HIGHEST = -1e6, 100
"""Of gold log-probabilities (nats): their differences and probabilities must not overflow."""
_TOO_MANY = 2**53


def read_group(path: Path) -> Group:
    """The group in a JSON file.

    Raises:
        MissingResourceError: no such file.
        InvalidInputError: anything malformed, with the trajectory and turn (from 1) where it is.
    """
    if path.is_dir():
        raise _wrong(str(path), "a JSON file, got a directory", "name the file in it")
    try:
        value = read_json(path)
    except InvalidInputError as error:
        raise InvalidInputError(
            f"{error}; expected a single JSON object with {', '.join(_GROUP_KEYS)}"
        ) from None
    record = _object(str(path), value, _GROUP_KEYS)
    golds = _items(str(path), record, "golden_answers")
    for gold in golds:
        if not isinstance(gold, str) or not gold.strip():
            raise _wrong(
                str(path),
                f'"golden_answers" to hold strings with text, got {_shown(gold)}',
                "correct it",
            )
    question = _text(str(path), record, "question")
    trajectories = tuple(
        _trajectory(f"{path}: trajectory {number}", item)
        for number, item in enumerate(_items(str(path), record, "trajectories"), start=1)
    )
    try:
        return Group(question, tuple(golds), trajectories)
    except InvalidInputError as error:
        raise InvalidInputError(f"{path}: {error}") from None


def _trajectory(where: str, value: Any) -> CreditTrajectory:
    record = _object(where, value, _TRAJECTORY_KEYS)
    answer = record.get("answer")
    if answer is not None and not isinstance(answer, str):
        raise _wrong(where, f'"answer" to be a string or null, got {_shown(answer)}', "quote it")
    items = _items(where, record, "turns")
    turns = tuple(
        _turn(f"{where}, turn {number}", item) for number, item in enumerate(items, start=1)
    )
    if answer is not None and turns[-1].query is not None:
        last = f"{where}, turn {len(turns)}"
        raise _wrong(
            last, "the answering turn, got a search", "add a last turn {} or remove the answer"
        )
    if answer is not None and not turns[-1].generated:
        turns = (*turns[:-1], replace(turns[-1], generated=f"<answer>{answer}</answer>"))
    verdict = record.get("judge")
    if verdict is not None and (type(verdict) not in (int, float) or verdict not in (0, 1)):
        raise _wrong(where, f'"judge" to be 1 or 0, got {_shown(verdict)}', "or leave it out")
    return CreditTrajectory(
        answer,
        turns,
        _gold_logprobs(where, record.get("gold_logprobs"), len(turns)),
        path=_path(where, record.get("path"), len(turns)),
        verdict=None if verdict is None else float(verdict),
    )


def _gold_logprobs(where: str, value: Any, turns: int) -> tuple[float, ...]:
    if value is None:
        return ()
    numbers = isinstance(value, list) and all(
        type(number) in (int, float) and _LOWEST <= number <= _HIGHEST for number in value
    )
    if not numbers or len(value) != turns:
        raise _wrong(
            where,
            f'"gold_logprobs" to be {agreeing(turns, "log-probability", "log-probabilities")} '
            f"({_LOWEST:g} to {_HIGHEST:g} nats), one before each turn",
            "measure them or leave it out",
        )
    return tuple(map(float, value))


def _path(where: str, value: Any, turns: int) -> tuple[int, ...]:
    if value is None:
        return ()
    numbers = isinstance(value, list) and all(
        type(number) is int and number >= 0 for number in value
    )
    if not numbers or len(value) != turns:
        raise _wrong(
            where,
            f'"path" to be {counted(turns, "integer")} of 0 or more, one per turn',
            "correct it or leave it out",
        )
    return tuple(value)


def _turn(where: str, value: Any) -> CreditTurn:
    record = _object(where, value, _TURN_KEYS)
    for name in _TEXT_KEYS:
        text = record.get(name)
        if text is not None and not isinstance(text, str):
            raise _wrong(
                where, f'"{name}" to be a string, got {_shown(text)}', "quote it or leave it out"
            )
    tokens = record.get("tokens", 1)
    if type(tokens) is not int or not 0 <= tokens < _TOO_MANY:
        raise _wrong(
            where,
            f'"tokens" to be an integer of 0 or more, below 2^53, got {_shown(tokens)}',
            "correct it or leave it out",
        )
    query, feedback = record.get("query"), record.get("feedback") or ""
    if query is None and feedback:
        raise _wrong(
            where,
            '"query" beside "feedback", got none',
            "only a search gives feedback: add or remove one",
        )
    known = "" if query is None else f"<search>{query}</search>"
    return CreditTurn(query, feedback, record.get("text") or known, tokens)


def _object(where: str, value: Any, known: Collection[str]) -> dict[str, Any]:
    """`value` as an object. It may have further keys, but no misspelt one."""
    if not isinstance(value, dict):
        raise _wrong(where, f"an object, got {_shown(value)}", f"give it {', '.join(known)}")
    for name in value:
        if name not in known:
            _refuse_misspelt(where, value, known)
            break
    return value


def _refuse_misspelt(where: str, record: dict[str, Any], known: Collection[str]) -> None:
    missing = tuple(name for name in known if name not in record)
    for name in record:
        if name not in known and (near := _near(name, missing)):
            raise _wrong(where, f'"{near[0]}", got "{name}"', "rename the key")


@lru_cache(maxsize=1024)  # the objects of a file have the same further keys
def _near(name: str, missing: tuple[str, ...]) -> list[str]:
    """The missing key that a name may stand for, if any."""
    return difflib.get_close_matches(name, missing, n=1, cutoff=0.75)


def _text(where: str, record: dict[str, Any], name: str) -> str:
    value = record.get(name)
    if not isinstance(value, str) or not value.strip():
        raise _wrong(where, f'"{name}" to be a string with text, got {_shown(value)}', "write it")
    return value


def _items(where: str, record: dict[str, Any], name: str) -> list[Any]:
    value = record.get(name)
    if not isinstance(value, list) or not value:
        raise _wrong(
            where, f'"{name}" to be a list with entries, got {_shown(value)}', "give at least one"
        )
    return value


def _shown(value: Any) -> str:
    if isinstance(value, dict | list):
        name = "an object" if isinstance(value, dict) else "a list"
        return name if value else f"{name} without entries"
    return {None: "nothing", "": "an empty string"}.get(value, repr(value)[:60])


def _wrong(where: str, expected: str, fix: str) -> InvalidInputError:
    return InvalidInputError(f"{where}: expected {expected}; fix: {fix}")
