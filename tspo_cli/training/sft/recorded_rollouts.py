"""Rollouts of a run, or items of an evaluation, as demonstrations.

Texts stay as they were sampled. Where a record shows that the model read its passages cut, the
demonstration has the text that it read. Records may come from anybody: nothing of a run is
executed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from tspo_cli import runs
from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.folr import judge
from tspo_cli.credit.group import CreditTrajectory, CreditTurn, TrajectoryClass
from tspo_cli.data.question import Question
from tspo_cli.errors import MissingResourceError
from tspo_cli.record_digests import check_complete
from tspo_cli.retrieval.types import Hit
from tspo_cli.rollout.protocol import STOP_STRINGS, parse_action, passages_text
from tspo_cli.rollout.records import read_items, read_step
from tspo_cli.training.core.sequences import ScriptedTurn
from tspo_cli.training.sft.demonstration_writer import demonstration_record

CLASSES = (*get_args(TrajectoryClass), "all")
Unused = Literal[
    "other_class",
    "failed",
    "no_answer",
    "invalid_turn",
    "other_protocol",
    "repeated",
    "more_of_its_question",
]
"""Why a trajectory gave no demonstration."""
_OPENING, _CLOSING = "<information>", "</information>"


@dataclass(frozen=True, slots=True)
class Recorded:
    """One trajectory of a record, with its question and class."""

    question: Question
    record: dict[str, Any]
    name: TrajectoryClass


def recorded_trajectories(path: Path) -> Iterator[Recorded]:
    """All trajectories of a run's rollouts, of an evaluation's items, or of one file of either.

    Raises:
        MissingResourceError: there is nothing of the kind.
        InvalidInputError: a damaged record, or a question or group that is there twice.
    """
    steps = dict[Path, int]()
    if path.is_file():
        files = [path]
    elif path.is_dir():
        check_complete(path / runs.ROLLOUTS_NAME)
        check_complete(path)
        steps = {file: step for step, file in runs.rollout_files(path)}
        files = [*steps] or [file for _, file in runs.items_files(path)]
    else:
        raise MissingResourceError(f"{path}: no such run, evaluation or file; check the path")
    if not files:
        raise MissingResourceError(
            f"{path}: neither rollouts nor evaluated items; name a run that keeps its rollouts, a "
            "folder of tspo eval, or RUN/eval/step_N"
        )
    for file in files:
        first = next(runs.read_jsonl_gz(file), None)
        if isinstance(first, dict) and "trajectory" in first:
            yield from (_of_item(item, file) for item in read_items(file))
        else:
            for group in read_step(file, steps.get(file)):
                yield from _of_group({**group})


def _of_group(record: dict[str, Any]) -> Iterator[Recorded]:
    source, name = str(record["group"][0]), str(record["group"][1])
    question = _question(record, name, source)
    for rollout in record["trajectories"]:
        yield Recorded(question, rollout, rollout.get("class") or _judged(rollout, question))


def _of_item(record: dict[str, Any], file: Path) -> Recorded:
    source = record.get("data_source")
    name = source if isinstance(source, str) else file.name.partition(".")[0]
    question, rollout = _question(record, str(record["id"]), name), record["trajectory"]
    return Recorded(question, rollout, _judged(rollout, question))


def _question(record: dict[str, Any], name: str, source: str) -> Question:
    return Question(
        name,
        record["question"],
        tuple(record["golden_answers"]),
        source,
        tuple(record.get("supporting_ids") or ()),
    )


def _judged(rollout: dict[str, Any], question: Question) -> TrajectoryClass:
    """The class with the default options of credit: success is an exact match."""
    turns = tuple(
        CreditTurn(turn.get("query"), turn.get("feedback", ""), turn["text"])
        for turn in rollout["turns"]
    )
    if not turns:
        return "miss"
    trajectory = CreditTrajectory(rollout.get("answer"), turns)
    return judge(trajectory, question.golden_answers, CreditConfig()).trajectory_class


def demonstrations_from(
    recorded: Sequence[Recorded],
    *,
    classes: Sequence[str],
    per_question: int = 1,
    keep_invalid: bool = False,
) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The records of the demonstrations, in the order of the trajectories, and how many were not
    used by reason.

    At most `per_question` of a question (0: all): those with the fewest turns, earlier ones first.
    `keep_invalid` keeps trajectories with invalid turns, which are shown and not trained.
    """
    unused: Counter[str] = Counter(dict.fromkeys(get_args(Unused), 0))
    found: dict[tuple[str, str], list[tuple[int, int, Recorded, list[ScriptedTurn]]]] = {}
    seen = set()
    for place, one in enumerate(recorded):
        turns = _turns(one, classes, keep_invalid)
        if isinstance(turns, str):
            unused[turns] += 1
            continue
        content = (one.question.question, *turns)
        if content in seen:
            unused["repeated"] += 1
            continue
        seen.add(content)
        same = found.setdefault((one.question.data_source, one.question.question), [])
        same.append((len(turns), place, one, turns))
    kept = []
    for same in found.values():
        ranked = sorted(same, key=lambda entry: entry[:2])
        chosen = ranked[:per_question] if per_question else ranked
        unused["more_of_its_question"] += len(ranked) - len(chosen)
        kept += chosen
    kept.sort(key=lambda entry: entry[1])
    records = [demonstration_record(one.question, turns) for _, _, one, turns in kept]
    return records, {name: count for name, count in unused.items() if count}


def _turns(
    one: Recorded, classes: Sequence[str], keep_invalid: bool
) -> list[ScriptedTurn] | Unused:
    record = one.record
    if record.get("failed") or any(turn.get("search_error") for turn in record["turns"]):
        return "failed"
    if "all" not in classes and one.name not in classes:
        return "other_class"
    if not record["turns"] or record["turns"][-1]["kind"] != "answer":
        return "no_answer"
    turns = []
    for turn in record["turns"]:
        if turn["kind"] in ("search", "answer"):
            read = _turn(turn)
            if read is None:
                return "other_protocol"
            turns.append(read)
        elif not keep_invalid or turn["kind"] != "invalid" or not _is_plain_invalid(turn["text"]):
            return "invalid_turn"
        else:
            turns.append(ScriptedTurn(turn["text"], is_invalid=True))
    return turns


def _turn(turn: dict[str, Any]) -> ScriptedTurn | None:
    """A search or an answer; None if its text or feedback is not of the search protocol."""
    text = turn["text"]
    thought = turn.get("thought")
    if isinstance(thought, str) and thought.strip() and "<think>" not in text:
        text = f"<think> {thought.strip()} </think> {text}"
    action = parse_action(text, finish_reason="stop", may_search=True)
    said = turn.get("query") if turn["kind"] == "search" else turn.get("answer")
    ends = [text.find(stop) + len(stop) for stop in STOP_STRINGS if stop in text]
    if (action.kind, action.content) != (turn["kind"], said) or min(ends) < len(text.rstrip()):
        return None
    if turn["kind"] == "answer":
        return ScriptedTurn(text)
    feedback = turn.get("feedback", "").strip()
    if not (feedback.startswith(_OPENING) and feedback.endswith(_CLOSING)):
        return None
    shown = feedback.removeprefix(_OPENING).removesuffix(_CLOSING)
    hits = tuple(Hit(hit["id"], hit["contents"], 0.0) for hit in turn.get("passages", ()))
    whole = [passages_text(hits, quoted=quoted) for quoted in (True, False)]
    if hits and shown in whole and all(hit.contents for hit in hits):
        return ScriptedTurn(text, hits)
    return ScriptedTurn(text, shown=shown)


def _is_plain_invalid(text: str) -> bool:
    action = parse_action(text, finish_reason="stop", may_search=True)
    return bool(text) and action.kind == "invalid"
