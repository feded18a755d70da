"""Normalisation of answers as in SQuAD (Rajpurkar et al. 2016), for checks, rewards and metrics."""

from __future__ import annotations

import re
import string
from functools import lru_cache

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = frozenset({"a", "an", "the"})
_ARTICLE = re.compile(r"\b(a|an|the)\b")


@lru_cache(maxsize=16384)
def normalize_answer(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces. Cached: for short texts."""
    return normalize_text(text)


def normalize_text(text: str) -> str:
    """`normalize_answer` for long texts, without the cache."""
    words = text.lower().translate(_PUNCTUATION).split()
    if "".join(words).isalnum():  # words have no borders within them: much faster
        return " ".join([word for word in words if word not in _ARTICLES])
    return " ".join(_ARTICLE.sub(" ", " ".join(words)).split())
