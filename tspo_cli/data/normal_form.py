"""Normalisation of answers as in SQuAD (Rajpurkar et al. 2016), for checks, rewards and metrics."""

from __future__ import annotations

import re
import string
from functools import lru_cache

import numpy as np

from tspo_cli.text.code_points import codes_of, text_of

_END_OF_SPACES = 0x3001
_SPACES = [code for code in range(_END_OF_SPACES) if chr(code).isspace()]
_PUNCTUATION = [*map(ord, string.punctuation)]
# Without punctuation, and with one kind of space.
_PLAIN = dict.fromkeys(_SPACES, " ") | dict.fromkeys(_PUNCTUATION)
_IS_SPACE, _IS_KEPT = np.zeros(_END_OF_SPACES + 1, bool), np.ones(_END_OF_SPACES + 1, bool)
_IS_SPACE[_SPACES] = True
_IS_KEPT[_PUNCTUATION] = False
_ARTICLES = frozenset({"a", "an", "the"})
# \b(a|an|the)\b, but the letter first: patterns that begin with a character are searched faster.
_ARTICLE = re.compile(r"[at](?<!\w.)(?:(?<=a)n?|(?<=t)he)(?!\w)", re.DOTALL)


@lru_cache(maxsize=16384)
def normalize_answer(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces. Cached: for short texts."""
    return normalize_text(text)


def normalize_text(text: str) -> str:
    """`normalize_answer` for long texts, without the cache."""
    plain = _plain(text.lower())
    # (Texts whose words stand one space apart need no list of their words.)
    joined = " ".join(plain.split()) if "  " in plain else plain.strip()
    if "a" not in joined and "the" not in joined:
        return joined
    if joined.replace(" ", "").isalnum():  # words have no borders within them: much faster
        padded = f" {joined} "
        if not any(f" {article} " in padded for article in _ARTICLES):
            return joined
        return " ".join([word for word in joined.split() if word not in _ARTICLES])
    if not _ARTICLE.search(joined):
        return joined
    return " ".join(_ARTICLE.sub(" ", joined).split())


def _plain(lower: str) -> str:
    if lower.isascii():
        return lower.translate(_PLAIN)
    codes = codes_of(lower)
    among = np.minimum(codes, np.uint32(_END_OF_SPACES))
    return text_of(np.where(_IS_SPACE[among], np.uint32(ord(" ")), codes)[_IS_KEPT[among]])
