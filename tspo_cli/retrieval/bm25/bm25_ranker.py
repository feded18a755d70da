"""BM25 over passage contents, scored by bm25s (Lu, 2024) with the variants of Kamphuis et al.
(2020).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import bm25s
import numpy as np
from bm25s.stopwords import STOPWORDS_EN

from tspo_cli.config.sections.index_settings import Bm25Settings
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.retrieval.ranking import Ranked, top_positive

LUCENE_STOP_WORDS = frozenset(
    (
        "a",
        "an",
        "and",
        "are",
        "as",
        "at",
        "be",
        "but",
        "by",
        "for",
        "if",
        "in",
        "into",
        "is",
        "it",
        "no",
        "not",
        "of",
        "on",
        "or",
        "such",
        "that",
        "the",
        "their",
        "then",
        "there",
        "these",
        "they",
        "this",
        "to",
        "was",
        "will",
        "with",
    )
)
STOP_WORDS = {
    "lucene": LUCENE_STOP_WORDS,
    "english": frozenset(STOPWORDS_EN),
    "none": frozenset[str](),
}
_TOKEN = re.compile(r"(?u)\b\w\w+\b")


def tokens(text: str, stop_words: str = "lucene", stemmer: str = "none") -> list[str]:
    """Lower-cased words of two or more letters or digits, without stop words, stemmed if asked.

    Raises:
        MissingResourceError: `stemmer` is not none and PyStemmer is not installed.
    """
    excluded = STOP_WORDS[stop_words]
    words = [word for word in _TOKEN.findall(text.lower()) if word not in excluded]
    return words if stemmer == "none" else _stems(stemmer)(words)


@lru_cache
def _stems(stemmer: str) -> Callable[[list[str]], list[str]]:
    try:
        import Stemmer
    except ImportError:
        raise MissingResourceError(
            'stemming needs PyStemmer; pip install "tspo-cli[stem]"'
        ) from None
    words: Callable[[list[str]], list[str]] = Stemmer.Stemmer(stemmer).stemWords
    return words


class Bm25Ranker:
    """Ranks by BM25; passages that share no word with the query are no hits.

    Args:
        id_of: gives the id of a position; equal scores are ordered by it. None: by position.

    Raises:
        InvalidInputError: the files do not fit each other or the corpus.
    """

    def __init__(
        self,
        directory: Path,
        rows: int,
        settings: Bm25Settings,
        id_of: Callable[[int], str] | None = None,
    ) -> None:
        self._settings = settings
        self._id_of = id_of
        self._index = bm25s.BM25.load(directory, mmap=True)
        scores = self._index.scores
        # A plain view of the mapped pages: slicing an np.memmap costs more than scoring.
        for name in ("data", "indices", "indptr"):
            scores[name] = np.asarray(scores[name])
        postings = int(scores["indptr"][-1])
        if len(scores["data"]) != postings or len(scores["indices"]) != postings:
            raise InvalidInputError(f"{directory}: the postings are cut; build the index again")
        if scores["num_docs"] != rows:
            raise InvalidInputError(
                f"{directory}: BM25 was built over {scores['num_docs']} passages, the corpus has "
                f"{rows}"
            )

    def rank(self, queries: list[str], k: int) -> list[Ranked]:
        """The best `k` positions for each query; none for a query without a known word."""
        return [self._rank_query(query, k) for query in queries]

    def _rank_query(self, query: str, k: int) -> Ranked:
        vocabulary = self._index.vocab_dict
        words = tokens(query, self._settings.stop_words, self._settings.stemmer)
        ids = [vocabulary[word] for word in words if word in vocabulary]
        if not ids:
            return []
        return top_positive(self._index.get_scores_from_ids(ids), k, self._id_of)
