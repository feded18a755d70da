"""BM25 over passage contents, scored by bm25s (Lu, 2024) with the variants of Kamphuis et al.
(2020).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import bm25s
import numpy as np
from bm25s.stopwords import STOPWORDS_EN

from tspo_cli.config.sections.index_settings import Bm25Settings
from tspo_cli.console import warn
from tspo_cli.data.corpus.unspaced import MARKS, UNSPACED, unspaced_share
from tspo_cli.errors import InvalidInputError
from tspo_cli.packages import missing
from tspo_cli.retrieval.mapped_array import map_array
from tspo_cli.retrieval.ranking import Ranked, check_finite, top_positive
from tspo_cli.retrieval.types import POSTINGS

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
NGRAMS_FROM = 0.05
"""The share of letters of scripts without spaces from which a corpus is indexed by ngrams."""
_INTEGERS = (np.dtype(np.int32), np.dtype(np.int64))
_DTYPES = ((np.dtype(np.float32),), _INTEGERS, _INTEGERS)
"""Types of the arrays POSTINGS."""
_AT_ONCE = 2**22
"""Postings that are checked at once."""
_LETTER = re.compile(f"[{UNSPACED}][{MARKS}]*")
_RUN = re.compile(f"[{UNSPACED}]")


def tokens(text: str, settings: Bm25Settings | None = None) -> list[str]:
    """Lower-cased words of `min_word` or more letters or digits, without stop words, stemmed if
    asked. With ngrams, the text is in form NFKC, and a run of a script without spaces gives its
    pairs of neighbouring letters, each with its signs; a single letter is its own token.

    Raises:
        MissingResourceError: `stemmer` is not none and PyStemmer is not installed.
    """
    settings = settings or Bm25Settings()
    excluded = STOP_WORDS[settings.stop_words]
    ngrams = settings.tokens == "ngrams"
    text = unicodedata.normalize("NFKC", text).lower() if ngrams else text.lower()
    words: Iterable[str] = _words(settings.min_word, ngrams).findall(text)
    if ngrams and not text.isascii():
        words = _with_pairs(words)
    kept = [word for word in words if word not in excluded]
    return kept if settings.stemmer == "none" else _stems(settings.stemmer)(kept)


@lru_cache
def _words(min_word: int, ngrams: bool) -> re.Pattern[str]:
    if not ngrams:
        return re.compile(rf"\b\w{{{min_word},}}\b")
    return re.compile(rf"[{UNSPACED}]+|[^\W{UNSPACED}]{{{min_word},}}")


def _with_pairs(words: Iterable[str]) -> Iterator[str]:
    for word in words:
        if _RUN.match(word) is None:
            yield word
            continue
        letters = _LETTER.findall(word)
        if len(letters) == 1:
            yield word
        for first, second in pairwise(letters):
            yield first + second


def decide_tokens(settings: Bm25Settings, sample: Iterable[str]) -> tuple[Bm25Settings, float]:
    """`settings` with words or ngrams in place of auto, as `sample` of the passages needs, and the
    share of its letters, 0 to 1, that belong to scripts without spaces.
    """
    share = unspaced_share("\n".join(sample))
    if settings.tokens != "auto":
        return settings, share
    chosen = "ngrams" if share >= NGRAMS_FROM else "words"
    return settings.model_copy(update={"tokens": chosen}), share


def lost_words(query: str, settings: Bm25Settings) -> str | None:
    """Why an index of `settings` finds nothing for a query none of whose words it has, and the
    setting that helps. None: its words are simply not in the corpus.
    """
    if settings.tokens != "ngrams" and unspaced_share(query) >= NGRAMS_FROM:
        return (
            "the index does not separate the words of text without spaces; build it with "
            "--set tokens=ngrams"
        )
    if tokens(query, settings):
        return None
    if tokens(query, settings.model_copy(update={"min_word": 1})):
        return (
            f"every word is a stop word or has fewer than {settings.min_word} letters; build the "
            "index with --set min_word=1"
        )
    if tokens(query, settings.model_copy(update={"min_word": 1, "stop_words": "none"})):
        return (
            "every word is a stop word; where such a query makes sense, build the index with "
            "--set stop_words=none"
        )
    return None


@lru_cache
def _stems(stemmer: str) -> Callable[[list[str]], list[str]]:
    try:
        import Stemmer
    except ImportError as error:
        raise missing({"Stemmer": f"stemmer = {stemmer}"}, str(error)) from None
    words: Callable[[list[str]], list[str]] = Stemmer.Stemmer(stemmer).stemWords
    return words


class Bm25Ranker:
    """Ranks by BM25; passages that share no word with the query are no hits.

    Args:
        id_of: gives the id of a position; equal scores are ordered by it. None: by position.

    Raises:
        InvalidInputError: the files do not fit each other or the corpus.
        MissingResourceError: the index was built with stemming and PyStemmer is not installed.
    """

    def __init__(
        self,
        directory: Path,
        rows: int,
        settings: Bm25Settings,
        id_of: Callable[[int], str] | None = None,
    ) -> None:
        self._settings = settings
        self._warned = False
        self._id_of = id_of
        if settings.stemmer != "none":
            _stems(settings.stemmer)  # a missing package is said now, not at the first query
        self._directory = directory
        self._index = _opened(directory, rows)

    def rank(self, queries: list[str], k: int) -> list[Ranked]:
        """The best `k` positions for each query; none for a query without a known word."""
        return [self._rank_query(query, k) for query in queries]

    def _rank_query(self, query: str, k: int) -> Ranked:
        vocabulary = self._index.vocab_dict
        words = tokens(query, self._settings)
        ids = [vocabulary[word] for word in words if word in vocabulary]
        if not ids:
            self._warn_once(query)
            return []
        try:
            scores = self._index.get_scores_from_ids(ids)
        except IndexError:
            raise _beyond(self._directory) from None
        return top_positive(scores, k, self._id_of)

    def _warn_once(self, query: str) -> None:
        if not self._warned and (reason := lost_words(query, self._settings)) is not None:
            self._warned = True
            warn(f"BM25 finds nothing for {query[:60]!r}: {reason}")


def check_postings(directory: Path, rows: int) -> None:
    """Read all postings of a corpus of `rows` passages, of which a search reads a few.

    Raises:
        InvalidInputError: the files do not fit each other or the corpus, a posting names a passage
            that is not there, a word has one twice or out of order, or a score is no number.
    """
    weights, places, words = (_opened(directory, rows).scores[name] for name in POSTINGS)
    for start in range(0, len(places), _AT_ONCE):
        block = places[start : start + _AT_ONCE + 1]  # its last is the first of the next
        if block.max() >= rows:
            raise _beyond(directory)
        begins = np.zeros(len(block), bool)
        within = slice(*np.searchsorted(words, (start, start + len(block))))
        begins[words[within] - start] = True
        if not (begins[1:] | (block[1:] > block[:-1])).all():
            raise InvalidInputError(
                f"{directory}: a word has a passage twice or out of order; build the index again"
            )
        check_finite(weights[start : start + _AT_ONCE])


def _beyond(directory: Path) -> InvalidInputError:
    return InvalidInputError(
        f"{directory}: the postings name passages that are not there; build the index again"
    )


def _opened(directory: Path, rows: int) -> bm25s.BM25:
    """The mapped files of a corpus of `rows` passages, with the types and sizes that scoring relies
    on. How their scores were computed does not matter any more: one way of loading them serves all.
    """
    data, places, starts = (
        # A plain view of the mapped pages: slicing an np.memmap costs more than scoring.
        np.asarray(map_array(directory / f"{name}.csc.index.npy", dtypes, 1))
        for name, dtypes in zip(POSTINGS, _DTYPES, strict=True)
    )
    same: dict[str, Any] = {"method": "lucene", "backend": "numpy"}
    same |= {"dtype": "float32", "int_dtype": "int32"}
    try:
        index = bm25s.BM25.load(directory, mmap=True, **same)
        ids = np.fromiter(index.vocab_dict.values(), np.int64, len(index.vocab_dict))
    except (ValueError, EOFError, KeyError, TypeError, AttributeError, OverflowError,
            RecursionError) as error:  # fmt: skip
        reason = str(error).split(".")[0][:120]
        raise InvalidInputError(
            f"{directory}: damaged BM25 files ({reason}); build the index again"
        ) from None
    if not data.shape == places.shape == (starts[-1] if len(starts) else -1,):
        raise InvalidInputError(f"{directory}: the postings are cut; build the index again")
    each_once = np.array_equal(np.sort(ids), np.arange(len(starts) - 1))
    if starts[0] != 0 or (np.diff(starts) < 0).any() or not each_once:
        raise InvalidInputError(
            f"{directory}: words without postings of their own; build the index again"
        )
    # As unsigned numbers, places below 0 are beyond the corpus and an error.
    places = places.view(f"u{places.itemsize}")
    count = index.scores["num_docs"]
    if count != rows:
        raise InvalidInputError(
            f"{directory}: BM25 was built over {count} {'passage' if count == 1 else 'passages'}, "
            f"the corpus has {rows}"
        )
    # An integer, whatever number was compared.
    index.scores |= dict(zip(POSTINGS, (data, places, starts), strict=True)) | {"num_docs": rows}
    return index
