"""The highest scores that a corpus allows: how many answers and gold passages it holds, and how
many of them a single search finds.

If no passage contains the answer, a model can only answer from memory. Missing documents can change
published scores more than the algorithm does: report the ceiling together with the score.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tspo_cli.credit.gold_match import Match
from tspo_cli.data.check import AnswerFinder, telling_answers
from tspo_cli.data.corpus.chunks import found_of
from tspo_cli.data.question import Question
from tspo_cli.evaluation.metrics import DEFAULT_MATCH, answer_in_retrieved, gold_recall, mean
from tspo_cli.retrieval.index.searcher import Searcher
from tspo_cli.retrieval.types import Retriever

MOST_PASSAGES = 300_000
"""Every evaluation reads corpora up to this size, which takes about 25 seconds."""


def corpus_ceiling(
    questions: Sequence[Question], passages: Iterable[tuple[str, str]]
) -> dict[str, float | None]:
    """Shares of the answers and gold passages that a corpus holds. `passages` are its (id,
    contents).

    `answer_in_corpus`: share of the questions with an accepted answer in a passage (whole words
    after normalisation, title and text), without yes/no questions. `gold_in_corpus`: mean share of
    a question's gold passages that exist. `all_gold_in_corpus`: share of the questions whose gold
    passages all exist. None if no question has such answers or gold passages.
    """
    ceiling = CorpusCeiling(questions)
    for identifier, contents in passages:
        ceiling.feed(identifier, contents)
    return ceiling.shares()


class CorpusCeiling:
    """`corpus_ceiling` of a corpus that is read passage by passage."""

    def __init__(self, questions: Sequence[Question]) -> None:
        self._questions = questions
        self._answers = [telling_answers(question.golden_answers) for question in questions]
        self._finder = AnswerFinder(self._answers)
        self._gold_ids = {name for question in questions for name in question.supporting_ids}
        self._present: set[str] = set()

    def feed(self, identifier: str, contents: str) -> None:
        """Take in the next passage."""
        self._finder.feed(contents)
        self._present |= found_of(self._gold_ids, {identifier})

    def shares(self) -> dict[str, float | None]:
        """The shares of what was read so far."""
        gold = [
            len(self._present.intersection(question.supporting_ids))
            / len(set(question.supporting_ids))
            for question in self._questions
            if question.supporting_ids
        ]
        answered = self._finder.answered
        return {
            "answer_in_corpus": mean(
                [float(index in answered) for index, golds in enumerate(self._answers) if golds]
            ),
            "gold_in_corpus": mean(gold),
            "all_gold_in_corpus": mean([float(share == 1) for share in gold]),
        }


def search_ceiling(
    questions: Sequence[Question],
    retriever: Retriever,
    ks: Sequence[int],
    match: Match = DEFAULT_MATCH,
) -> list[dict[str, Any]]:
    """`answer_in_retrieved` and `gold_recall` of one search with the question itself, for each k.

    `gold_recall` is the mean over the questions with a complete list of gold passages; if no list
    is complete, over those with a partial list.
    """
    results = retriever.search([question.question for question in questions], max(ks))
    complete = [question.gold_kind == "full" for question in questions]
    rows = []
    for k in ks:
        pairs = [
            (question, result.hits[:k]) for question, result in zip(questions, results, strict=True)
        ]
        recalls = [gold_recall(question, hits) for question, hits in pairs]
        full = [recall for recall, is_full in zip(recalls, complete, strict=True) if is_full]
        rows.append(
            {
                "k": k,
                "answer_in_retrieved": mean(
                    [answer_in_retrieved(question, hits, match) for question, hits in pairs]
                ),
                "gold_recall": mean(full or recalls),
            }
        )
    return rows


def ceiling(
    questions: Sequence[Question], retriever: Retriever | None
) -> dict[str, float | None] | None:
    """`corpus_ceiling` of an index in this process. None for other retrievers, and for a corpus of
    more than MOST_PASSAGES passages.
    """
    if not isinstance(retriever, Searcher) or len(retriever) > MOST_PASSAGES:
        return None
    return corpus_ceiling(questions, retriever.passages())


def no_gold(shares: Mapping[str, float | None] | None) -> bool:
    """Whether these shares say that a corpus has none of the gold passages that are named."""
    return shares is not None and shares["gold_in_corpus"] == 0
