"""Gold passages for questions that have none: distant supervision, as Chen et al. (2017, "Reading
Wikipedia to answer open-domain questions") made training data from questions with answers alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tspo_cli.credit.gold_match import contains_answer
from tspo_cli.data.question import Question
from tspo_cli.errors import InvalidInputError
from tspo_cli.retrieval.index.searcher import Searcher
from tspo_cli.retrieval.types import Hit, query_problem

DEPTH = 10
"""Passages among which the answer is looked for."""
SEARCHES_AT_ONCE = 64
"""Questions whose searches go to the index together."""
_FROM_ALL_PASSAGES = ("yes", "no")


def with_distant_gold(
    questions: Sequence[Question], searcher: Searcher, gold: Mapping[str, str]
) -> tuple[list[Question], dict[str, str]]:
    """The questions, in their order, and the contents of the passages that were found, by id. A
    question without gold passages in the index gets the first of the `DEPTH` passages for its own
    words that holds an accepted answer, and none where none does. `gold` has the contents of the
    gold passages that are in the index, by id.

    "yes", "no" and answers that stand in the question itself prove nothing and are not looked for.

    Raises:
        InvalidInputError: the index is damaged.
    """
    holders: dict[str, Hit] = {}
    without = [
        question
        for question in questions
        if not any(name in gold for name in question.supporting_ids)
    ]
    wanted = [
        question
        for question in without
        if _telling(question) and query_problem(question.question) is None
    ]
    for start in range(0, len(wanted), SEARCHES_AT_ONCE):
        some = wanted[start : start + SEARCHES_AT_ONCE]
        results = searcher.search([question.question for question in some], DEPTH)
        for question, result in zip(some, results, strict=True):
            if result.error is not None:
                raise InvalidInputError(result.error)
            holder = _holder(question, result.hits)
            if holder is not None:
                holders[question.key] = holder
    found = {question.key: () for question in without} | {
        key: (holder.id,) for key, holder in holders.items()
    }
    known = [
        replace(question, supporting_ids=found[question.key], gold_kind="positive")
        if question.key in found
        else question
        for question in questions
    ]
    return known, {holder.id: holder.contents for holder in holders.values()}


def _telling(question: Question) -> list[str]:
    """The accepted answers that only a passage that answers the question is likely to hold."""
    return [
        answer
        for answer in question.golden_answers
        if answer.strip().lower() not in _FROM_ALL_PASSAGES
        and not contains_answer(question.question, [answer])
    ]


def _holder(question: Question, hits: Sequence[Hit]) -> Hit | None:
    answers = _telling(question)
    return next((hit for hit in hits if contains_answer(hit.contents, answers)), None)
