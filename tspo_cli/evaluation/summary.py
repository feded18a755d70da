"""Intervals of scores, averages over data sets, and latencies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from tspo_cli.console import counted, part_of
from tspo_cli.evaluation.item_record import ItemRecord
from tspo_cli.evaluation.methods import METHODS
from tspo_cli.evaluation.metrics import summarize
from tspo_cli.evaluation.statistics.estimates import Estimate, average_share, estimate_share
from tspo_cli.rollout.protocol import STOP_STRINGS
from tspo_cli.rollout.records import TurnRecord
from tspo_cli.rollout.thoughts import split_thoughts

PLAIN_METHODS = {name for name, method in METHODS.items() if method.reads_replies}
INTERVALS: tuple[Literal["em", "f1", "sub_em"], ...] = ("em", "f1", "sub_em")


def with_intervals(scores: dict[str, Any], items: Sequence[ItemRecord]) -> dict[str, Any]:
    """Add the standard error (`em_se`) and the 95 % bootstrap interval (`em_low`, `em_high`) of em,
    f1 and sub_em to `scores`. If all items are alike, the interval is Wilson's.
    """
    return scores | {
        f"{name}_{part}": value
        for name in INTERVALS
        for part, value in _parts(estimate_share([item[name] for item in items])).items()
    }


def score_names() -> set[str]:
    """The names of all scores that are numbers."""
    of_items = summarize([], dataset="", method="", k=0)
    plain = {name for name, value in of_items.items() if not isinstance(value, str | dict)}
    parts = {f"{name}_{part}" for name in INTERVALS for part in ("se", "low", "high")}
    return plain | parts | {"invalid_calls", "refused", "judge", "judge_unclear"}


MOST_SILENT = 0.5
"""Above this share of questions without an answer, the scores say little of what a model knows."""


def silent_model(scores: Mapping[str, Any], form: str) -> str | None:
    """What to do where more than `MOST_SILENT` of the questions have no answer, those aside that
    the server refused or that failed; None elsewhere. `form` says how answers are read: auto, tags
    or reply.
    """
    lost = (scores.get("refused") or 0) + (scores.get("failed") or 0)
    share = (scores["no_answer_share"] or 0.0) - (lost / scores["n"] if lost else 0.0)
    if share <= MOST_SILENT:
        return None
    method = scores["method"]
    if form != "tags":
        advice = (
            "the replies are empty or unfinished thoughts; raise rollout.max_new_tokens, or switch "
            "the model's thinking off"
        )
    elif method in PLAIN_METHODS:
        advice = "the replies have no <answer> tags; use --answer auto to read them without"
    else:
        advice = (
            f"the model does not keep to the form of {method}, or its turns are too short; train "
            'it first (kind = "sft"), raise rollout.max_new_tokens, or choose a baseline such as '
            "--method rag"
        )
    return f"{share:.0%} of the questions have no answer and count as wrong: {advice}"


def cut_questions(scores: Mapping[str, Any]) -> str | None:
    """What to do where questions were cut; None elsewhere."""
    if not scores["cut_prompts"]:
        return None
    shown = part_of(
        scores["cut_prompts"],
        scores["n"],
        "prompt",
        "shows only a part of its question, because it is",
        "show only a part of their question, because they are",
    )
    return f"{shown} longer than rollout.max_prompt_tokens; raise that to show all of it"


def failed_searches(items: Sequence[ItemRecord]) -> str | None:
    """What to do where searches failed; None elsewhere."""
    failed = [item for item in items if item["failed"] and "unanswered" not in item]
    if not failed:
        return None
    wrong = part_of(
        len(failed),
        len(items),
        "question",
        "counts as wrong because one of its searches",
        "count as wrong because one of their searches",
    )
    return f"{wrong} failed ({search_error(failed)}); --resume asks {_those(failed)} again"


def search_error(items: Sequence[ItemRecord]) -> str:
    """Why the first search of the items that failed did so."""
    turns = (turn for item in items for turn in item["trajectory"]["turns"])
    return next(
        (turn["search_error"] for turn in turns if turn["search_error"]),
        "later than rollout.trajectory_deadline",
    )


def unanswered_questions(items: Sequence[ItemRecord]) -> str | None:
    """What to do where a server did not answer questions; None elsewhere."""
    reasons = [item["unanswered"] for item in items if "unanswered" in item]
    if not reasons:
        return None
    wrong = part_of(len(reasons), len(items), "question", "counts", "count")
    return (
        f"{wrong} as wrong because the server did not answer {_those(reasons)}, while it answered "
        f"others ({reasons[0]}); --resume asks {_those(reasons)} again"
    )


def _those(questions: Sequence[object]) -> str:
    return "it" if len(questions) == 1 else "them"


def calls_in_thoughts(items: Sequence[ItemRecord]) -> str | None:
    """A line if calls were read from thoughts without an end; None elsewhere."""
    turns = [turn for item in items for turn in item["trajectory"]["turns"]]
    count = sum(turn.get("call_in_thought", False) for turn in turns)
    if not count:
        return None
    return (
        f"{part_of(count, len(turns), 'turn', 'calls', 'call')} a function in a thought that has "
        "no </think>; such a call ends the thought and counts as any other"
    )


def stopped_in_thoughts(
    items: Sequence[ItemRecord], stop: Sequence[str], *, remote: bool
) -> str | None:
    """What to do where turns ended at one of the tags in `stop` within a thought; None elsewhere.
    `remote`: a server generated them.
    """
    tags = tuple(string for string in stop if string in STOP_STRINGS)
    turns = [turn for item in items for turn in item["trajectory"]["turns"]]
    count = sum(
        turn["text"].endswith(tags) and split_thoughts(turn["text"])[1] is not None
        for turn in turns
    )
    if not tags or not count:
        return None
    advice = (
        "ask for whole replies (--set 'endpoint.drop=[\"stop\"]'), in which no action is read from "
        "a thought that has its end"
        if remote
        else "choose another method, such as --method tool_call, or switch thinking off"
    )
    return (
        f"{count} of {counted(len(turns), 'turn')} ended at a stop string ({', '.join(tags)}) "
        "inside a thought that has no </think>, and the action was read there. If the model "
        f"only quotes the prompt there, {advice}"
    )


def only_thoughts(items: Sequence[ItemRecord]) -> str | None:
    """What to do where questions have reasoning without any text as their reply; None elsewhere."""
    count = sum(item.get("no_answer") == "thought" for item in items)
    if not count:
        return None
    return (
        f"{part_of(count, len(items), 'question', 'has', 'have')} no answer because the server "
        "returned reasoning and no text. The token limit ended the thought: raise "
        "rollout.max_new_tokens, or switch thinking off "
        "(rollout.template_kwargs={enable_thinking=false}). If replies were complete, the "
        "server's reasoning parser does not fit the model, or a stop string in the thought "
        "ended it: --set 'endpoint.drop=[\"stop\"]'"
    )


def served_models(items: Sequence[ItemRecord], asked: str) -> dict[str, int]:
    """Turns by the model that the server answered as; empty if it never said another one than was
    `asked` for.
    """
    turns = [turn for item in items for turn in own_turns(item)]
    names = Counter(turn.get("served_as") or asked for turn in turns)
    return dict(sorted(names.items())) if names.keys() - {asked} else {}


def own_turns(item: ItemRecord) -> list[TurnRecord]:
    """The turns of the model: without the tool's own search with the question at the beginning."""
    turns = item["trajectory"]["turns"]
    return turns[len(turns) - item.get("model_turns", len(turns)) :]


def several_models(scores: Mapping[str, Any]) -> str | None:
    """A line if the server answered as several models; None elsewhere."""
    names = scores.get("served_models") or {}
    if len(names) < 2:
        return None
    shown = ", ".join(f"{name} {count}" for name, count in names.items())
    return f"the server answered as several models (turns: {shown}): the scores are of none of them"


def averages(sets: Sequence[Sequence[ItemRecord]]) -> dict[str, dict[str, Any]]:
    """Averages with intervals: `macro` weights every data set equally, `questions` every
    question.
    """
    result: dict[str, dict[str, Any]] = {"macro": {}, "questions": {}}
    for name in INTERVALS:
        scores = [[item[name] for item in items] for items in sets]
        for weighting, estimate in (
            ("macro", average_share(scores, weighting="macro")),
            ("questions", average_share(scores, weighting="questions")),
        ):
            result[weighting] |= {
                name: estimate.mean,
                **{f"{name}_{part}": x for part, x in _parts(estimate).items()},
            }
    return result


def latency(seconds: Sequence[float]) -> dict[str, float]:
    """Seconds per question from its first prompt to its last token, including the time that it
    waits for the rest of its batch.
    """
    median, p95 = np.percentile(seconds, [50, 95])
    return {
        "mean": float(np.mean(seconds)),
        "p50": float(median),
        "p95": float(p95),
        "sum": float(np.sum(seconds)),
    }


def _parts(estimate: Estimate) -> dict[str, float | None]:
    return {"se": estimate.se, "low": estimate.low, "high": estimate.high}
