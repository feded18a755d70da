"""Normalisation of answers as in SQuAD (Rajpurkar et al. 2016), for checks, rewards and metrics."""

from __future__ import annotations

import re
import string
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from tspo_cli.text.code_points import codes_of, text_of

_END_OF_SPACES = 0x3001
_SPACES = [code for code in range(_END_OF_SPACES) if chr(code).isspace()]
_PUNCTUATION = [*map(ord, string.punctuation)]
# Without punctuation, and with one kind of space.
_PLAIN = dict.fromkeys(_SPACES, " ") | dict.fromkeys(_PUNCTUATION)
_IS_SPACE, _IS_KEPT = np.zeros(_END_OF_SPACES + 1, bool), np.ones(_END_OF_SPACES + 1, bool)
_IS_SPACE[_SPACES] = True
_IS_KEPT[_PUNCTUATION] = False
_ARTICLES = ("a", "an", "the")
# \b(a|an|the)\b, but the letter first: patterns that begin with a character are searched faster.
_ARTICLE = re.compile(r"[at](?<!\w.)(?:(?<=a)n?|(?<=t)he)(?!\w)", re.DOTALL)
_LONG = 4096
"""Characters from which arrays are faster than the pattern."""


@lru_cache(maxsize=16384)
def normalize_answer(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces. Cached: for short texts."""
    return normalize_text(text)


def normalize_text(text: str) -> str:
    """`normalize_answer` for long texts, without the cache."""
    plain = _plain(text.lower())
    if "a" in plain or "the" in plain:
        plain = _without_articles(plain)
    # (Texts whose words stand one space apart need no list of their words.)
    return " ".join(plain.split()) if "  " in plain else plain.strip()


def _without_articles(plain: str) -> str:
    """A text in lower case with a space for every letter of its articles, or for each of them."""
    if len(plain) < _LONG:
        return _ARTICLE.sub(" ", plain)
    codes = codes_of(plain).copy()
    is_letter = np.pad(_is_letter()[codes], 1)
    borders = np.flatnonzero(is_letter[1:] != is_letter[:-1])
    begins, lengths = borders[::2], np.diff(borders)[::2]
    for article in _ARTICLES:
        found = begins[lengths == len(article)]
        for place, letter in enumerate(article):
            found = found[codes[found + place] == ord(letter)]
        for place in range(len(article)):
            codes[found + place] = ord(" ")
    return text_of(codes)


@lru_cache(maxsize=1)
def _is_letter() -> npt.NDArray[np.bool_]:
    """For every code point whether it is part of a word, as patterns see it."""
    chars = text_of(np.arange(0x110000, dtype="<u4"))
    is_letter = np.zeros(len(chars), bool)
    for run in re.finditer(r"\w+", chars):
        is_letter[run.start() : run.end()] = True
    return is_letter


def _plain(lower: str) -> str:
    if lower.isascii():
        return lower.translate(_PLAIN)
    codes = codes_of(lower)
    among = np.minimum(codes, np.uint32(_END_OF_SPACES))
    return text_of(np.where(_IS_SPACE[among], np.uint32(ord(" ")), codes)[_IS_KEPT[among]])
