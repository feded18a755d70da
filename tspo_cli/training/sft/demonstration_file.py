"""Recorded demonstrations: files of questions with the turns that an agent should write.

One line is `{"question": "...", "turns": [{"text": "<think> ... </think> <search> ... </search>",
"passages": [{"id", "title", "text"}, ...]}, ..., {"text": "... <answer> ... </answer>"}]}`.
Conversations of other tools are read too, see `transcripts.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import NoneType
from typing import Any

from tspo_cli.console import counted, say
from tspo_cli.data.corpus.passage_forms import field_names
from tspo_cli.data.formats.record_checks import invalid, type_name
from tspo_cli.data.readers import parse_passage
from tspo_cli.data.rows import read_rows
from tspo_cli.errors import InvalidInputError
from tspo_cli.retrieval.types import Hit
from tspo_cli.rollout.protocol import STOP_STRINGS, parse_action
from tspo_cli.training.core.sequences import ScriptedTrajectory, ScriptedTurn
from tspo_cli.training.sft.transcripts import Unreadable, is_transcript, read_transcript

FORMAT = "docs/training.md shows the format"
# The second tuple of each: what is written about a question, and nothing here reads.
_ABOUT = ("id", "golden_answers", "data_source", "supporting_ids", "imperfect", "metadata")
_FIELDS = dict.fromkeys(("question", "turns", *_ABOUT))
_TURN_FIELDS = dict.fromkeys(("text", "passages", "shown", "invalid"))
_PASSAGE_FIELDS = dict.fromkeys(("id", "contents", "title", "text", *("score",)))
_OPTIONAL_OF_TURN: tuple[tuple[str, type | tuple[type, ...], str], ...] = (
    ("passages", list, "a list"),
    ("shown", (str, NoneType), "the text of the passages"),
    ("invalid", (bool, NoneType), "true or false"),
)


def read_demonstrations(path: Path) -> list[ScriptedTrajectory]:
    """All demonstrations of a file, in its order.

    Every turn holds one action, as a rollout would: searches with the passages that they returned,
    then one answer.

    Raises:
        InvalidInputError: a malformed line, a transcript that no rollout could have, or no line at
        all. MissingResourceError: no such file.
    """
    demonstrations, systems = [], 0
    for number, record in read_rows(path):
        demonstration, has_system = _demonstration(path, number, record)
        demonstrations.append(demonstration)
        systems += has_system
    if not demonstrations:
        raise InvalidInputError(
            f"{path}: expected demonstrations, got an empty file; fix: name a file with some"
        )
    if systems:
        say(
            f"{path}: the system message of {counted(systems, 'conversation')} is not used: the "
            "prompt is that of rollout.prompt and rollout.system"
        )
    return demonstrations


def scan_demonstrations(path: Path) -> Iterator[ScriptedTrajectory | InvalidInputError]:
    """`read_demonstrations` that continues after a line that is none and yields its error.

    Raises:
        MissingResourceError: no such file.
        InvalidInputError: a line that is no JSON object.
    """
    for number, record in read_rows(path):
        try:
            yield _demonstration(path, number, record)[0]
        except InvalidInputError as error:
            yield error


def holds_demonstrations(path: Path) -> bool:
    """Whether the first record of a file is a demonstration by its fields, ours or another tool's.

    Raises:
        MissingResourceError: no such file.
    """
    first = _first_record(path)
    return "turns" in first or is_transcript(first)


def holds_own_demonstrations(path: Path) -> bool:
    """Whether the first record of a file is a demonstration in our form, by its fields.

    Raises:
        MissingResourceError: no such file.
    """
    return {"question", "turns"} <= _first_record(path).keys()


def _first_record(path: Path) -> dict[str, Any]:
    """Empty if there is none that can be read."""
    try:
        return next((record for _, record in read_rows(path)), {})
    except InvalidInputError:
        return {}


def _demonstration(
    path: Path, number: int, record: dict[str, Any]
) -> tuple[ScriptedTrajectory, bool]:
    """The demonstration, and whether it had a system message, which is left out."""
    if "turns" not in record and is_transcript(record):
        try:
            read = read_transcript(record)
        except Unreadable as problem:
            raise invalid(path, number, problem.expected, problem.got, problem.fix) from None
        question, scripted, has_system = read.question, read.turns, read.has_system
    else:
        question, scripted, has_system = *_own(path, number, record), False
    for place, turn in enumerate(scripted, start=1):
        _refuse_impossible(path, number, turn, place, is_last=place == len(scripted))
    return ScriptedTrajectory(question, tuple(scripted)), has_system


def _own(path: Path, number: int, record: dict[str, Any]) -> tuple[str, list[ScriptedTurn]]:
    question, turns = record.get("question"), record.get("turns")
    if not isinstance(question, str) or not isinstance(turns, list) or not turns:
        raise invalid(
            path,
            number,
            '"question" (a string) and "turns" (a list), "messages", "conversations", or "prompt" '
            'and "response"',
            f"fields {field_names(record)}",
            f"write one of them; {FORMAT}",
        )
    if not question.strip():
        raise invalid(path, number, '"question" to hold text', repr(question), "write the question")
    _refuse_unknown(path, number, record, _FIELDS, "a demonstration")
    return question, [_turn(path, number, turn, place) for place, turn in enumerate(turns, start=1)]


def _turn(path: Path, number: int, turn: Any, place: int) -> ScriptedTurn:
    if not isinstance(turn, dict) or not isinstance(turn.get("text"), str) or not turn["text"]:
        got = type_name(turn) if not isinstance(turn, dict) else f"fields {field_names(turn)}"
        raise invalid(
            path,
            number,
            f'turn {place} to have a "text"',
            got,
            f"write what the agent says; {FORMAT}",
        )
    _refuse_unknown(path, number, turn, _TURN_FIELDS, f"turn {place}")
    values = turn.get("passages") or [], turn.get("shown"), turn.get("invalid")
    for value, (name, wanted, words) in zip(values, _OPTIONAL_OF_TURN, strict=True):
        if not isinstance(value, wanted):
            raise invalid(
                path,
                number,
                f'"{name}" of turn {place} to be {words}',
                type_name(value),
                f"correct or remove it; {FORMAT}",
            )
    passages, shown, is_invalid = values
    if passages and shown is not None:
        raise invalid(
            path,
            number,
            f'turn {place} to have "passages" or "shown"',
            "both",
            "keep one of them",
        )
    hits = tuple([_hit(path, number, passage) for passage in passages])
    return ScriptedTurn(turn["text"], hits, shown, bool(is_invalid))


def _hit(path: Path, number: int, passage: Any) -> Hit:
    if not isinstance(passage, dict):
        raise invalid(
            path,
            number,
            "every passage to be an object",
            type_name(passage),
            'write {"id", "title", "text"} or {"id", "contents"}',
        )
    _refuse_unknown(path, number, passage, _PASSAGE_FIELDS, "a passage")
    identifier, contents = str(passage.get("id", "")), passage.get("contents")
    if isinstance(contents, str) and contents:
        return Hit(identifier, contents, 0.0)
    # An id is of no use to training, so a passage may lack it.
    return Hit(identifier, parse_passage(path, number, {**passage, "id": "-"}).contents, 0.0)


def _refuse_unknown(
    path: Path, number: int, record: dict[str, Any], known: dict[str, None], what: str
) -> None:
    if not record.keys() <= known.keys():
        unknown = [name for name in record if name not in known]
        raise invalid(
            path,
            number,
            f"{what} with the fields {', '.join(known)}",
            f"unknown {field_names(dict.fromkeys(unknown))}, which would not be trained on",
            f"remove it; {FORMAT}",
        )


def _shown(text: str) -> str:
    """A turn, or its end: there stands the action."""
    return repr(text if len(text) <= 80 else f"...{text[-77:]}")


def _refuse_impossible(
    path: Path, number: int, turn: ScriptedTurn, place: int, *, is_last: bool
) -> None:
    """Refuse a turn that no rollout could have."""
    kind = parse_action(turn.text, finish_reason="stop", may_search=True).kind
    if turn.is_invalid:
        if kind == "invalid" and not turn.searches and not is_last:
            return
        raise invalid(
            path,
            number,
            f"the invalid turn {place} without action and passages, before another turn",
            _shown(turn.text),
            'remove "invalid", or the turn',
        )
    if kind not in ("search", "answer"):
        raise invalid(
            path,
            number,
            f"turn {place} to hold <search> query </search> or <answer> text </answer>",
            _shown(turn.text),
            "write one action into every turn",
        )
    places = [(turn.text.find(stop), len(stop)) for stop in STOP_STRINGS]
    if min([place + length for place, length in places if place >= 0]) < len(turn.text.rstrip()):
        raise invalid(
            path,
            number,
            f"turn {place} to end with its action, where a rollout's turn ends",
            _shown(turn.text),
            "remove what follows the closing tag",
        )
    if kind == "search" and not turn.searches:
        raise invalid(
            path,
            number,
            f"the search of turn {place} with the passages that it returned",
            "none",
            'give the turn "passages", or leave the demonstration out',
        )
    if kind == "search" and is_last:
        raise invalid(
            path,
            number,
            "the last turn to answer",
            "a search",
            "add the turn with <answer> text </answer>",
        )
    if kind == "answer" and (turn.searches or not is_last):
        got = "passages after it" if turn.searches else f"more turns after turn {place}"
        raise invalid(
            path, number, "the rollout to end with its answer", got, "remove what follows it"
        )
