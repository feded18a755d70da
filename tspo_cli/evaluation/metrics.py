"""Scores of one answered question, and their means over a data set."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tspo_cli.credit.text import contains_answer, exact_match, f1_score, normalize_answer
from tspo_cli.data.schema import Question
from tspo_cli.retrieval.types import Hit
from tspo_cli.rollout.trajectory import Trajectory, trajectory_record


def gold_recall(question: Question, hits: Iterable[Hit]) -> float | None:
    """Share of the gold passages among `hits`, 0 to 1; None where the question names none."""
    if not question.supporting_ids:
        return None
    gold = set(question.supporting_ids)
    return len(gold & {hit.id for hit in hits}) / len(gold)


def answer_in_retrieved(question: Question, hits: Iterable[Hit]) -> float | None:
    """1 when a gold answer occurs in the title or text of a hit, else 0 (SQuAD normalisation, whole words).

    None for yes/no questions, whose answers would be found anywhere.
    """
    golds = [gold for gold in question.golden_answers if normalize_answer(gold) not in ("yes", "no")]
    if not golds:
        return None
    return float(any(contains_answer(f"{hit.title} {hit.text}", golds) for hit in hits))


def item_record(trajectory: Trajectory, question_hits: Sequence[Hit] | None) -> dict[str, Any]:
    """Everything about one evaluated question, its trajectory included.

    `question_hits` are the passages that the bare question retrieves (None without a retriever): the yardstick for what
    the agent's own queries find.
    """
    question = trajectory.question
    hits = [hit for turn in trajectory.turns for hit in turn.hits]
    kinds = [turn.kind for turn in trajectory.turns]
    return {
        "id": question.id,
        "data_source": question.data_source,
        "type": question.type,
        "question": question.question,
        "golden_answers": list(question.golden_answers),
        "supporting_ids": list(question.supporting_ids),
        "gold_kind": question.gold_kind,
        "answer": trajectory.answer,
        "em": float(exact_match(trajectory.answer, question.golden_answers)),
        "f1": f1_score(trajectory.answer, question.golden_answers),
        "answer_in_retrieved": answer_in_retrieved(question, hits),
        "gold_recall": gold_recall(question, hits),
        "question_answer_in_retrieved": None if question_hits is None else answer_in_retrieved(question, question_hits),
        "question_gold_recall": None if question_hits is None else gold_recall(question, question_hits),
        "searches": trajectory.searches,
        "turns": len(kinds),
        "invalid_turns": sum(kind in ("invalid", "truncated") for kind in kinds),
        "response_tokens": sum(len(turn.action_ids) for turn in trajectory.turns),
        "failed": trajectory.failed,
        "trajectory": trajectory_record(trajectory),
    }


def summarize(items: Sequence[dict[str, Any]], *, dataset: str, method: str, k: int) -> dict[str, Any]:
    """Means over all items; an item whose search failed or that gave no answer counts as wrong, never as absent.

    gold_recall is the mean over questions with a complete list of gold passages, or over those with a partial list
    where no list is complete; it and answer_in_retrieved are None where no question allows them.
    """
    turns = sum(item["turns"] for item in items)
    by_type = {
        name: {"n": len(some), "em": _mean([item["em"] for item in some]), "f1": _mean([item["f1"] for item in some])}
        for name in sorted({item["type"] for item in items} - {""})
        for some in [[item for item in items if item["type"] == name]]
    }
    return {
        "dataset": dataset,
        "method": method,
        "k": k,
        "n": len(items),
        "em": _mean([item["em"] for item in items]),
        "f1": _mean([item["f1"] for item in items]),
        "answer_in_retrieved": _mean([item["answer_in_retrieved"] for item in items]),
        "gold_recall": _mean(_recalls(items, "gold_recall")),
        "question_answer_in_retrieved": _mean([item["question_answer_in_retrieved"] for item in items]),
        "question_gold_recall": _mean(_recalls(items, "question_gold_recall")),
        "searches": _mean([item["searches"] for item in items]),
        "invalid_share": sum(item["invalid_turns"] for item in items) / turns if turns else 0.0,
        "no_answer_share": _mean([float(item["answer"] is None) for item in items]),
        "response_tokens": _mean([item["response_tokens"] for item in items]),
        "failed": sum(item["failed"] for item in items),
        "by_type": by_type,
    }


def _recalls(items: Sequence[dict[str, Any]], key: str) -> list[float | None]:
    complete = [item[key] for item in items if item["gold_kind"] == "full"]
    return complete or [item[key] for item in items]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
