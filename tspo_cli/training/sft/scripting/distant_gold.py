"""Gold passages for questions that have none: distant supervision, as Chen et al. (2017, "Reading
Wikipedia to answer open-domain questions") made training data from questions with answers alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from tspo_cli.credit.gold_match import contains_answer
from tspo_cli.data.normal_form import normalize_answer
from tspo_cli.data.question import Question
from tspo_cli.data.word_forms import Readable, wanted
from tspo_cli.errors import InvalidInputError
from tspo_cli.retrieval.index.searcher import Searcher
from tspo_cli.retrieval.types import Hit, query_problem
from tspo_cli.training.sft.scripting.scripted_thoughts import plain_title

DEPTH = 10
"""Passages among which the answer is looked for."""
SEARCHES_AT_ONCE = 64
"""Questions whose searches go to the index together."""
_FROM_ALL_PASSAGES = ("yes", "no")


def with_distant_gold(
    questions: Sequence[Question], searcher: Searcher, gold: Mapping[str, str]
) -> tuple[list[Question], dict[str, str]]:
    """The questions, in their order, and the contents of the passages that were found, by id. A
    question without gold passages in the index gets some of the `DEPTH` passages for its own words:
    the first that holds an accepted answer, or none. `gold` has the contents of the gold passages
    that are in the index, by id.

    "yes", "no" and answers that stand in the question itself prove nothing and are not looked for.
    Such a question mostly compares: it gets the first two passages whose titles it names, or none.

    Raises:
        InvalidInputError: the index is damaged.
    """
    found: dict[str, tuple[Hit, ...]] = {}
    without = [
        question
        for question in questions
        if not any(name in gold for name in question.supporting_ids)
    ]
    asked = [question for question in without if query_problem(question.question) is None]
    for start in range(0, len(asked), SEARCHES_AT_ONCE):
        some = asked[start : start + SEARCHES_AT_ONCE]
        results = searcher.search([question.question for question in some], DEPTH)
        for question, result in zip(some, results, strict=True):
            if result.error is not None:
                raise InvalidInputError(result.error)
            telling = _telling(question)
            found[question.key] = (
                _holder(telling, result.hits) if telling else _compared(question, result.hits)
            )
    passages = {hit.id: hit.contents for hits in found.values() for hit in hits}
    known = {
        question.key: replace(
            question,
            supporting_ids=tuple(hit.id for hit in found.get(question.key, ())),
            gold_kind="full",
        )
        for question in without
    }
    return [known.get(question.key, question) for question in questions], passages


def _telling(question: Question) -> list[str]:
    """The accepted answers that only a passage that answers the question is likely to hold."""
    return [
        answer
        for answer in question.golden_answers
        if answer.strip().lower() not in _FROM_ALL_PASSAGES
        and not contains_answer(question.question, [answer])
    ]


def _holder(answers: Sequence[str], hits: Sequence[Hit]) -> tuple[Hit, ...]:
    """The first passage that holds an answer."""
    return next(((hit,) for hit in hits if contains_answer(hit.contents, answers)), ())


def _compared(question: Question, hits: Sequence[Hit]) -> tuple[Hit, ...]:
    """The first two passages whose titles the question names, where one of them has the answer if
    it is no yes and no no. A title within a longer one that it names does not count.
    """
    asked = Readable.of(question.question)
    named: dict[str, Hit] = {}
    for hit in hits:
        title = plain_title(hit.title)
        form = wanted(title)
        if form is not None and form.is_in(asked):
            named.setdefault(normalize_answer(title), hit)
    longest = [
        hit
        for name, hit in named.items()
        if not any(name != other and f" {name} " in f" {other} " for other in named)
    ]
    two = tuple(longest[:2])
    answers = [
        answer
        for answer in question.golden_answers
        if answer.strip().lower() not in _FROM_ALL_PASSAGES
    ]
    is_there = not answers or any(contains_answer(hit.contents, answers) for hit in two)
    return two if len(two) > 1 and is_there else ()
