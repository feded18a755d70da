"""BM25 over passage contents, scored by bm25s (Lu, 2024) with the variants of Kamphuis et al. (2020)."""

from __future__ import annotations

import re
from array import array
from pathlib import Path

import bm25s
import numpy as np

from tspo_cli.console import track
from tspo_cli.errors import InvalidInputError
from tspo_cli.retrieval.passages import PassageStore
from tspo_cli.retrieval.ranking import Ranked, top_k
from tspo_cli.retrieval.settings import Bm25Settings

LUCENE_STOP_WORDS = frozenset((
    "a", "an", "and", "are", "as", "at", "be", "but", "by", "for", "if", "in", "into", "is", "it", "no", "not", "of",
    "on", "or", "such", "that", "the", "their", "then", "there", "these", "they", "this", "to", "was", "will", "with",
))  # fmt: skip
_TOKEN = re.compile(r"(?u)\b\w\w+\b")


def tokens(text: str, stop_words: str = "lucene") -> list[str]:
    """Lower-cased words of two or more letters or digits, without stop words, not stemmed."""
    words = _TOKEN.findall(text.lower())
    return [word for word in words if word not in LUCENE_STOP_WORDS] if stop_words == "lucene" else words


def build_bm25(store: PassageStore, directory: Path, settings: Bm25Settings) -> None:
    """Index the contents of `store` into `directory`.

    Raises:
        InvalidInputError: no passage holds a word that could be searched for.
    """
    vocabulary: dict[str, int] = {}
    # Four bytes per word of the corpus: lists would take eight, and a large corpus has billions of words.
    ids = [
        array("i", [vocabulary.setdefault(word, len(vocabulary)) for word in tokens(text, settings.stop_words)])
        for text in track(store.contents(), "reading passages", total=len(store))
    ]
    if not vocabulary:
        raise InvalidInputError("corpus: no passage holds a searchable word; check the contents, or use --kind dense")
    index = bm25s.BM25(method=settings.method, k1=settings.k1, b=settings.b)
    index.index((ids, vocabulary), create_empty_token=False, show_progress=False)
    index.save(directory, show_progress=False)


class Bm25Ranker:
    """Ranks by BM25; passages that share no word with the query are no hits."""

    def __init__(self, directory: Path, settings: Bm25Settings) -> None:
        self._stop_words = settings.stop_words
        self._index = bm25s.BM25.load(directory, mmap=True)
        # A plain view of the mapped pages: slicing np.memmap itself costs more than scoring.
        for name in ("data", "indices", "indptr"):
            self._index.scores[name] = np.asarray(self._index.scores[name])

    def rank(self, queries: list[str], k: int) -> list[Ranked]:
        """The best `k` positions for each query; none for a query without a known word."""
        return [self._rank_one(query, k) for query in queries]

    def _rank_one(self, query: str, k: int) -> Ranked:
        vocabulary = self._index.vocab_dict
        ids = [vocabulary[word] for word in tokens(query, self._stop_words) if word in vocabulary]
        if not ids:
            return []
        scores = self._index.get_scores_from_ids(ids)
        positions = np.flatnonzero(scores > 0)
        return top_k(scores[positions], positions, k)
