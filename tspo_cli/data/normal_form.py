"""Normalisation of answers as in SQuAD (Rajpurkar et al. 2016), for checks, rewards and metrics."""

from __future__ import annotations

import re
import string
from functools import lru_cache

import numpy as np

from tspo_cli.text.code_points import without

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_IS_PUNCTUATION = np.isin(np.arange(129), list(_PUNCTUATION))
_ARTICLES = frozenset({"a", "an", "the"})
# \b(a|an|the)\b, but the letter first: patterns that begin with a character are searched faster.
_ARTICLE = re.compile(r"[at](?<!\w.)(?:(?<=a)n?|(?<=t)he)(?!\w)", re.DOTALL)


@lru_cache(maxsize=16384)
def normalize_answer(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces. Cached: for short texts."""
    return normalize_text(text)


def normalize_text(text: str) -> str:
    """`normalize_answer` for long texts, without the cache."""
    lower = text.lower()
    if lower.isascii():
        words = lower.translate(_PUNCTUATION).split()
    else:
        words = without(lower, _IS_PUNCTUATION)[0].split()
    joined = " ".join(words)
    if not _ARTICLE.search(joined):
        return joined
    if "".join(words).isalnum():  # words have no borders within them: much faster
        return " ".join([word for word in words if word not in _ARTICLES])
    return " ".join(_ARTICLE.sub(" ", joined).split())
