"""What a data set allows before anyone trains: which answers and gold passages are in a corpus, and
within reach.

A question whose answer is in no passage can only be answered from memory. Documents that a corpus
lacks move published scores more than algorithms do, so the ceiling belongs beside the score.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tspo_cli.data.check import AnswerFinder
from tspo_cli.data.normal_form import normalize_answer
from tspo_cli.data.question import Question
from tspo_cli.evaluation.metrics import answer_in_retrieved, gold_recall, mean
from tspo_cli.retrieval.index.searcher import Searcher
from tspo_cli.retrieval.types import Retriever

MOST_PASSAGES = 300_000
"""Corpora up to this size are read through beside every evaluation: about 25 seconds."""


def corpus_ceiling(
    questions: Sequence[Question], passages: Iterable[tuple[str, str]]
) -> dict[str, float | None]:
    """What is in the corpus at all, from its (id, contents).

    `answer_in_corpus`: share of questions of which an accepted answer is in some passage (whole
    normalised words, title and text), yes/no questions left out. `gold_in_corpus`: mean share of a
    question's gold passages that are there; `all_gold_in_corpus`: share of questions of which all
    are. None where no question allows it.
    """
    searchable = [_plain_answers(one) for one in questions]
    finder = AnswerFinder(searchable)
    wanted = {identifier for one in questions for identifier in one.supporting_ids}
    present: set[str] = set()
    for identifier, contents in passages:
        finder.feed(contents)
        if identifier in wanted:
            present.add(identifier)
    shares = [
        len(present.intersection(one.supporting_ids)) / len(set(one.supporting_ids))
        for one in questions
        if one.supporting_ids
    ]
    return {
        "answer_in_corpus": mean(
            [float(place in finder.found) for place, golds in enumerate(searchable) if golds]
        ),
        "gold_in_corpus": mean(shares),
        "all_gold_in_corpus": mean([float(share == 1) for share in shares]),
    }


def search_ceiling(
    questions: Sequence[Question], retriever: Retriever, ks: Sequence[int]
) -> list[dict[str, Any]]:
    """For each k what one search with the bare question finds: `answer_in_retrieved` and
    `gold_recall`, the latter over the questions with a complete list of gold passages, or over
    those with a partial one where no list is complete.
    """
    results = retriever.search([one.question for one in questions], max(ks))
    complete = [one.gold_kind == "full" for one in questions]
    rows = []
    for k in ks:
        pairs = [(one, result.hits[:k]) for one, result in zip(questions, results, strict=True)]
        recalls = [gold_recall(one, hits) for one, hits in pairs]
        kept = [recall for recall, full in zip(recalls, complete, strict=True) if full] or recalls
        rows.append(
            {
                "k": k,
                "answer_in_retrieved": mean(
                    [answer_in_retrieved(one, hits) for one, hits in pairs]
                ),
                "gold_recall": mean(kept),
            }
        )
    return rows


def ceiling(
    questions: Sequence[Question], retriever: Retriever | None
) -> dict[str, float | None] | None:
    """`corpus_ceiling` of the corpus below an index in this process; None for others and for very
    large ones.
    """
    if not isinstance(retriever, Searcher) or len(retriever) > MOST_PASSAGES:
        return None
    return corpus_ceiling(questions, retriever.passages())


def _plain_answers(question: Question) -> list[str]:
    return [
        gold for gold in question.golden_answers if normalize_answer(gold) not in ("", "yes", "no")
    ]
