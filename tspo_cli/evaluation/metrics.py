"""Scores of one answered question, and their means over a data set."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.folr import first_occurrence
from tspo_cli.credit.from_rollouts import credit_turn
from tspo_cli.credit.gold_match import Match, contains_answer, f1_score
from tspo_cli.data.corpus.chunks import found_of
from tspo_cli.data.normal_form import normalize_answer
from tspo_cli.data.question import Question
from tspo_cli.evaluation.item_record import ItemRecord
from tspo_cli.retrieval.types import Hit
from tspo_cli.rollout.records import rollout_record
from tspo_cli.rollout.shown import is_cut
from tspo_cli.rollout.trajectory import INVALID, Trajectory

DEFAULT_MATCH: Match = "either_word_form"
_CLOSED = {"yes", "no", "noanswer"}


def gold_recall(question: Question, hits: Iterable[Hit]) -> float | None:
    """Share of the gold passages that are among `hits`, 0 to 1; None without gold passages.

    A gold document is found by any of its chunks.
    """
    if not question.supporting_ids:
        return None
    gold = set(question.supporting_ids)
    return len(found_of(gold, {hit.id for hit in hits})) / len(gold)


def gold_precision(question: Question, hits: Iterable[Hit]) -> float | None:
    """Share of the distinct passages in `hits` that are gold; None without hits or without gold
    passages.
    """
    retrieved = {hit.id for hit in hits}
    if not question.supporting_ids or not retrieved:
        return None
    gold = set(question.supporting_ids)
    return sum(bool(found_of(gold, {identifier})) for identifier in retrieved) / len(retrieved)


def answer_em(answer: str | None, golds: Sequence[str]) -> bool:
    """Exact match of SQuAD, Search-R1 and FlashRAG: the normalised answer equals a normalised gold.

    An answer and a gold that are both empty after normalisation are equal. A missing answer equals
    no gold.
    """
    return answer is not None and normalize_answer(answer) in map(normalize_answer, golds)


def answer_f1(answer: str | None, golds: Sequence[str]) -> float:
    """Best word F1 over the golds (SQuAD). If either side is yes, no or noanswer, only the same
    word counts, as in the evaluation of HotpotQA and FlashRAG.
    """
    normal_answer = normalize_answer(answer or "")
    comparable = [
        gold
        for gold in golds
        if normalize_answer(gold) == normal_answer
        or not {normal_answer, normalize_answer(gold)} & _CLOSED
    ]
    return f1_score(answer, comparable)


def cover_match(answer: str | None, golds: Sequence[str]) -> bool:
    """Sub-EM (cover-EM) of FlashRAG and ZeroSearch: a normalised gold is a substring of the
    normalised answer.
    """
    normal_answer = normalize_answer(answer or "")
    return any(gold in normal_answer for gold in map(normalize_answer, golds) if gold)


def first_retrieved(
    question: Question, trajectory: Trajectory, match: Match = DEFAULT_MATCH
) -> int | None:
    """Number of the first turn, from 1, whose whole passages contain a gold answer, shown or not.
    None if no turn does, and for yes/no questions.
    """
    for number, turn in enumerate(trajectory.turns, start=1):
        if answer_in_retrieved(question, turn.hits, match):
            return number
    return None


def answer_in_retrieved(
    question: Question, hits: Iterable[Hit], match: Match = DEFAULT_MATCH
) -> float | None:
    """1 if the title or text of a hit contains a gold answer, else 0.

    None for yes/no questions: almost every passage contains such a word.
    """
    return _holds_answer(question, (f"{hit.title} {hit.text}" for hit in hits), match)


def answer_in_shown(
    question: Question, trajectory: Trajectory, match: Match = DEFAULT_MATCH
) -> float | None:
    """1 if an observation, as the model was shown it, contains a gold answer, else 0. None for
    yes/no questions.
    """
    texts = (turn.feedback for turn in trajectory.turns if turn.kind == "search")
    return _holds_answer(question, texts, match)


def _holds_answer(question: Question, texts: Iterable[str], match: Match) -> float | None:
    golds = [
        gold for gold in question.golden_answers if normalize_answer(gold) not in ("yes", "no")
    ]
    if not golds:
        return None
    return float(any(contains_answer(text, golds, match) for text in texts))


def item_record(
    trajectory: Trajectory,
    question_hits: Sequence[Hit] | None,
    *,
    answer_from: str | None = "tags",
    given_turns: int = 0,
    calls_tools: bool = False,
    credit: CreditConfig | None = None,
) -> ItemRecord:
    """The record of one evaluated question: its scores and its trajectory.

    `answer_from` says how the answer was read, `given_turns` how many turns are not the model's,
    `calls_tools` whether the method calls functions.
    `credit` says how gold answers are found: `first_occurrence` is that of training.

    `question_hits` are the passages that the question itself retrieves as a query (None without a
    retriever). They are the reference for the agent's own queries.
    """
    question = trajectory.question
    credit = credit or CreditConfig()
    turns = [credit_turn(turn) for turn in trajectory.turns]
    hits = [hit for turn in trajectory.turns for hit in turn.hits]
    kinds = [turn.kind for turn in trajectory.turns]
    record: ItemRecord = {
        "id": question.id,
        "key": question.key,
        "data_source": question.data_source,
        "type": question.type,
        "question": question.question,
        "golden_answers": list(question.golden_answers),
        "supporting_ids": list(question.supporting_ids),
        "gold_kind": question.gold_kind,
        "answer": trajectory.answer,
        "answer_from": None if trajectory.answer is None else answer_from,
        "em": float(answer_em(trajectory.answer, question.golden_answers)),
        "f1": answer_f1(trajectory.answer, question.golden_answers),
        "sub_em": float(cover_match(trajectory.answer, question.golden_answers)),
        "answer_in_retrieved": answer_in_retrieved(question, hits, credit.match),
        "answer_in_shown": answer_in_shown(question, trajectory, credit.match),
        "gold_recall": gold_recall(question, hits),
        "gold_precision": gold_precision(question, hits),
        "first_occurrence": first_occurrence(turns, question.golden_answers, credit)[0],
        "first_retrieved": first_retrieved(question, trajectory, credit.match),
        "question_answer_in_retrieved": None
        if question_hits is None
        else answer_in_retrieved(question, question_hits, credit.match),
        "question_gold_recall": None
        if question_hits is None
        else gold_recall(question, question_hits),
        "searches": trajectory.searches,
        "cut_observations": sum(
            is_cut([hit.text for hit in turn.hits], turn.feedback) for turn in trajectory.turns
        ),
        "turns": len(kinds),
        "model_turns": len(kinds) - given_turns,
        "invalid_turns": sum(kind in INVALID for kind in kinds),
        "response_tokens": sum(turn.sampled_tokens for turn in trajectory.turns),
        "failed": trajectory.failed,
        "trajectory": rollout_record(trajectory),
    }
    if calls_tools:
        calls = [turn.call for turn in trajectory.turns if turn.call is not None]
        record["invalid_calls"] = sum(bool(call.error) for call in calls)
    if trajectory.answer is None and trajectory.turns and trajectory.turns[-1].only_thought:
        record["no_answer"] = "thought"
    if trajectory.refused:
        record["refused"] = trajectory.refused
    if trajectory.unanswered:
        record["unanswered"] = trajectory.unanswered
    return record


def summarize(items: Sequence[ItemRecord], *, dataset: str, method: str, k: int) -> dict[str, Any]:
    """Means over all items. An item without an answer, or with a failed search, counts as wrong.

    gold_recall and gold_precision are means over the questions with a complete list of gold
    passages; if no list is complete, over those with a partial list. first_occurrence and
    first_retrieved are means over the questions that have one. These, answer_in_retrieved and
    answer_in_shown are None if no question has a value. invalid_calls, the invalid calls per
    question, is there for methods that call functions.
    """
    searches = sum(item["searches"] for item in items)
    cut = sum(item.get("cut_observations", 0) for item in items)
    turns = sum(item.get("model_turns", item["turns"]) for item in items)
    read = Counter(item.get("answer_from") for item in items if item["answer"] is not None)
    calls = [item["invalid_calls"] for item in items if "invalid_calls" in item]
    return {
        "dataset": dataset,
        "method": method,
        "k": k,
        "n": len(items),
        "em": mean([item["em"] for item in items]),
        "f1": mean([item["f1"] for item in items]),
        "sub_em": mean([item["sub_em"] for item in items]),
        "answer_in_retrieved": mean([item["answer_in_retrieved"] for item in items]),
        "answer_in_shown": mean([item.get("answer_in_shown") for item in items]),
        "gold_recall": mean(_recalls(items, "gold_recall")),
        "gold_precision": mean(_recalls(items, "gold_precision")),
        "first_occurrence": mean([item["first_occurrence"] for item in items]),
        "first_retrieved": mean([item.get("first_retrieved") for item in items]),
        "question_answer_in_retrieved": mean(
            [item["question_answer_in_retrieved"] for item in items]
        ),
        "question_gold_recall": mean(_recalls(items, "question_gold_recall")),
        "searches": mean([item["searches"] for item in items]),
        "observation_cut_share": cut / searches if searches else None,
        "invalid_share": sum(item["invalid_turns"] for item in items) / turns if turns else 0.0,
        **({"invalid_calls": mean(calls)} if calls else {}),
        "no_answer_share": mean([float(item["answer"] is None) for item in items]),
        "answer_from": {str(name): read[name] for name in sorted(read, key=str)},
        "response_tokens": mean([item["response_tokens"] for item in items]),
        "failed": sum(item["failed"] for item in items),
        "cut_prompts": sum(item.get("cut_prompt", False) for item in items),
        "by_type": _by_type(items),
    }


def _by_type(items: Sequence[ItemRecord]) -> dict[str, dict[str, Any]]:
    """Number of items, EM and F1 of each question type. Items without a type are left out."""
    items_of_type: dict[str, list[ItemRecord]] = defaultdict(list)
    for item in items:
        if item["type"]:
            items_of_type[item["type"]].append(item)
    return {
        name: {
            "n": len(members),
            "em": mean([item["em"] for item in members]),
            "f1": mean([item["f1"] for item in members]),
        }
        for name, members in sorted(items_of_type.items())
    }


def _recalls(
    items: Sequence[ItemRecord],
    key: Literal["gold_recall", "gold_precision", "question_gold_recall"],
) -> list[float | None]:
    complete = [item[key] for item in items if item["gold_kind"] == "full"]
    return complete or [item[key] for item in items]


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are not None; None without any."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
