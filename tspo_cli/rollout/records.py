"""How a trajectory is written to a run directory, as JSON that needs no tokenizer to be read.

`rollouts/step_*.jsonl.gz` holds one `GroupRecord` per line. An evaluated item
(`evaluation/item_record.py`) holds one `RolloutRecord`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from tspo_cli.errors import InvalidInputError
from tspo_cli.record_forms import GROUP, ITEM, checked
from tspo_cli.rollout.trajectory import Trajectory, Turn, TurnKind
from tspo_cli.runs import read_jsonl_gz

_ROUNDING = 1e-6
"""Of a recorded share."""


class PassageRecord(TypedDict):
    """One retrieved passage, see `Hit`."""

    id: str
    contents: str  # title in quotes, a newline, then the text
    score: float  # of the ranker; higher is better


class TurnRecord(TypedDict):
    """One model segment and the feedback after it, see `Turn`."""

    kind: TurnKind
    text: str  # of these tokens, special tokens included
    query: str | None  # of a search
    answer: str | None  # of a final answer
    finish_reason: str  # stop, eos or length
    tokens: int  # sampled, without a dropped end-of-sequence token
    eos_dropped: NotRequired[bool]  # written where it is true, see `Turn`
    logprob: float | None  # sum over the sampled tokens, nats; None from an endpoint
    passages: list[PassageRecord]  # best first
    feedback: str  # the text inserted after the segment: passages in their tags, or a correction
    feedback_tokens: int
    search_error: str | None  # why the search failed
    call_error: NotRequired[str]  # written where it is not empty: why a call was not valid
    ignored_calls: NotRequired[int]  # written above 0: further calls, which were not executed
    thought: NotRequired[str]  # written where it is not empty: reasoning that a server keeps apart
    served_as: NotRequired[str]  # the model that a server said it was, if not the one asked for
    call_in_thought: NotRequired[bool]  # written where it is true: in a thought without an end


class BranchRecord(TypedDict):
    """Where a rollout left another one, see `Branch`."""

    parent: int  # `sample` of the rollout that sampled the last turn that it shares
    turns: int  # how many turns it shares: the first ones
    rank: int  # of the turn that was expanded, from 1; 0: it was drawn at random
    candidates: int
    uncertainty: float  # nats per token


# `class` is a keyword of Python, which only this form of TypedDict accepts as a field.
_TrajectoryClass = TypedDict("_TrajectoryClass", {"class": NotRequired[str]})


class RolloutRecord(_TrajectoryClass):
    """One trajectory, see `Trajectory`. Training adds the fields from `outcome` on, and `class`
    (success, near-miss or miss), when credit is assigned; an algorithm that needs them adds
    `gold_logprobs`.
    """

    sample: int  # number within the group, from 0
    answer: str | None  # the final answer; None if the model never gave one
    failed: bool  # a search failed or the deadline passed: not trained on, scored as wrong
    late: NotRequired[bool]  # written where it is true: the deadline passed
    refused: NotRequired[str]  # written where it is not empty: why the server refused the next turn
    unanswered: NotRequired[str]  # the same where it did not answer, while it answered others
    judge: NotRequired[float]  # a judge's verdict, where it is the outcome that is trained
    judge_error: NotRequired[str]  # written where it is not empty: why there is no verdict
    weight_version: int  # of the weights that sampled the last token
    prompt_tokens: int
    turns: list[TurnRecord]  # all from the question on, those shared with other rollouts included
    path: NotRequired[list[int]]  # of trees: for each turn, the `sample` that sampled it
    branch: NotRequired[BranchRecord]  # of one that does not begin at the question
    outcome: NotRequired[float]  # reward of the final answer, 0 to 1
    f1: NotRequired[float]  # word F1 of the final answer; evaluated items only
    first_occurrence: NotRequired[int | None]  # turn, from 1, whose feedback first has a gold
    turn_rewards: NotRequired[list[float]]  # one per turn
    advantages: NotRequired[list[float]]  # one per turn
    clip_scales: NotRequired[list[float]]  # one per turn, of an algorithm that has them
    gold_logprobs: NotRequired[list[float]]  # nats per token of the gold, before each turn


class TreeRecord(TypedDict):
    """What the rollouts of a question cost where they branch."""

    sampled_tokens: int  # of the rollouts with credit, shared turns counted once
    flat_tokens: float  # of rollout.group_size whole rollouts, by the mean of its own


class GroupRecord(TypedDict):
    """The trajectories of one question in one training step."""

    step: int
    group: list[str | int]  # data set, question id, draw: see `GroupId`
    type: NotRequired[str]  # question type, empty where the data set has none
    question: str
    golden_answers: list[str]
    supporting_ids: NotRequired[list[str]]  # gold passages; evaluated items only
    group_class: str | None  # see `credit.group.GroupClass`; None for an evaluated item
    level: NotRequired[str]  # what the algorithm compared: turn, trajectory or none
    tree: NotRequired[TreeRecord]  # written where rollouts branch and a whole one is left
    trajectories: list[RolloutRecord]
    failed: NotRequired[list[RolloutRecord]]  # those that failed, without credit; if there are any


def read_step(path: Path, step: int | None) -> Iterator[GroupRecord]:
    """The groups that a run recorded at a step; None: whichever step that was.

    Raises:
        InvalidInputError: a damaged file, one that has a group twice, or one of another step, which
            stands in its place.
    """
    lines: dict[tuple[str, ...], int] = {}
    for number, record in enumerate(read_jsonl_gz(path), start=1):
        checked(GROUP, record, f"{path}:{number}")
        group = [str(part) for part in record["group"]]
        first = lines.setdefault((*group, record["question"]), number)
        if first != number:
            raise InvalidInputError(
                f"{path}:{number}: expected each group once, got {'/'.join(group)} of line {first} "
                "again; put back a copy"
            )
        if step is not None and record.get("step", step) != step:
            raise InvalidInputError(
                f"{path}:{number}: expected a group of step {step}, got one of step "
                f"{record['step']}; put back a copy"
            )
        yield record


def check_step(path: Path, step: int, sampled: float | None) -> None:
    """Read the record of a step. `sampled` is its metric `sampled_tokens`, None where it has none.

    Raises:
        InvalidInputError: as `read_step`, or the rollouts have another number of tokens: they are
            of another run.
    """
    groups = (distinct_turns_of(group["trajectories"]) for group in read_step(path, step))
    tokens = sum(turn["tokens"] for turns in groups for turn in turns)
    if sampled is not None and tokens != sampled:
        raise InvalidInputError(
            f"{path}: expected {sampled:,.0f} sampled tokens, as the metrics of step {step} say, "
            f"got {tokens:,}; put back a copy of this run's own"
        )


def read_items(path: Path, scores: Mapping[str, Any] | None = None) -> Iterator[dict[str, Any]]:
    """The items of an evaluation, one for each question. `scores`: those of the data set, which are
    of these items.

    Raises:
        InvalidInputError: a damaged file, one that has a question twice, or items of other scores.
    """
    lines: dict[tuple[str, ...], int] = {}
    correct = 0.0
    for number, record in enumerate(read_jsonl_gz(path), start=1):
        item: dict[str, Any] = checked(ITEM, record, f"{path}:{number}")
        name = (item.get("key"), item.get("data_source"), item["id"], item["question"])
        first = lines.setdefault(tuple(map(str, name)), number)
        if first != number:
            raise InvalidInputError(
                f"{path}:{number}: expected each question once, got {item['id']!r} of line {first} "
                "again; put back a copy, or evaluate again"
            )
        correct += item["em"]
        yield item
    if scores is not None and not _same_score(len(lines), correct, scores):
        raise InvalidInputError(
            f"{path}: is of another evaluation than the scores beside it, which have n "
            f"{scores['n']} and EM {scores['em']}, not {len(lines)} and "
            f"{correct / max(len(lines), 1):.4g}; put back copies, or evaluate again"
        )


def _same_score(items: int, correct: float, scores: Mapping[str, Any]) -> bool:
    expected = scores["em"]
    return items == scores["n"] and (
        expected is None or math.isclose(correct, expected * items, abs_tol=_ROUNDING * items)
    )


def distinct_turns_of(rollouts: Sequence[RolloutRecord]) -> list[TurnRecord]:
    """The turns of a group's rollouts. One that several share is there once, whether or not the
    rollout that it was sampled for is among them.
    """
    found: dict[tuple[int, int], TurnRecord] = {}
    for index, rollout in enumerate(rollouts):
        owners = rollout.get("path") or [-1 - index] * len(rollout["turns"])
        for number, (owner, turn) in enumerate(zip(owners, rollout["turns"], strict=True)):
            found[owner, number] = turn
    return list(found.values())


def rollout_record(trajectory: Trajectory) -> RolloutRecord:
    """The record of a trajectory, without credit."""
    record: RolloutRecord = {
        "sample": trajectory.sample,
        "answer": trajectory.answer,
        "failed": trajectory.failed,
        "weight_version": trajectory.weight_version,
        "prompt_tokens": len(trajectory.prompt_ids),
        "turns": [_turn_record(turn) for turn in trajectory.turns],
    }
    branch = trajectory.branch
    if branch is not None:
        record["path"] = list(trajectory.path)
        if branch.owners:
            record["branch"] = {
                "parent": branch.owners[-1],
                "turns": len(branch.owners),
                "rank": branch.rank,
                "candidates": branch.candidates,
                "uncertainty": branch.uncertainty,
            }
    if trajectory.late:
        record["late"] = True
    if trajectory.verdict is not None:
        record["judge"] = trajectory.verdict
    if trajectory.judge_error:
        record["judge_error"] = trajectory.judge_error
    if trajectory.refused:
        record["refused"] = trajectory.refused
    if trajectory.unanswered:
        record["unanswered"] = trajectory.unanswered
    return record


def _turn_record(turn: Turn) -> TurnRecord:
    record: TurnRecord = {
        "kind": turn.kind,
        "text": turn.text,
        "query": turn.query,
        "answer": turn.answer,
        "finish_reason": turn.finish_reason,
        "tokens": len(turn.action_ids),
        # An endpoint returns no log-probabilities.
        "logprob": sum(turn.logprobs) if turn.logprobs or not turn.action_ids else None,
        "passages": [
            {"id": hit.id, "contents": hit.contents, "score": hit.score} for hit in turn.hits
        ],
        "feedback": turn.feedback,
        "feedback_tokens": len(turn.feedback_ids),
        "search_error": turn.search_error,
    }
    if turn.eos_dropped:
        record["eos_dropped"] = True
    if turn.thought:
        record["thought"] = turn.thought
    if turn.served_as:
        record["served_as"] = turn.served_as
    if turn.call is not None and turn.call.error:
        record["call_error"] = turn.call.error
    if turn.call is not None and turn.call.ignored:
        record["ignored_calls"] = turn.call.ignored
    if turn.call is not None and turn.call.in_thought:
        record["call_in_thought"] = True
    return record
