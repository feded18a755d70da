"""Notice an index that was built over another corpus than that of the questions."""

from __future__ import annotations

from collections.abc import Iterable

from tspo_cli.data.corpus.chunks import found_of
from tspo_cli.data.question import Question
from tspo_cli.retrieval.index.searcher import Searcher
from tspo_cli.retrieval.types import Retriever

OTHER_CORPUS = (
    "none of the gold passages that the questions name (supporting_ids) is in the corpus; is it "
    "another corpus, or does it have other ids?"
)
_MOST_PASSAGES = 300_000
"""Larger corpora are not read for this; a smaller one takes at most some seconds."""


def is_other_corpus(questions: Iterable[Question], retriever: Retriever | None) -> bool:
    """True if an index in this process has none of the gold passages that the questions name. False
    where none is named, and for retrievers that cannot be looked through.
    """
    gold = {name for question in questions for name in question.supporting_ids}
    if not gold or not isinstance(retriever, Searcher) or len(retriever) > _MOST_PASSAGES:
        return False
    return not any(found_of(gold, {identifier}) for identifier, _ in retriever.passages())
