"""The normal form of answers (SQuAD, Rajpurkar et al. 2016), which checks, rewards and metrics
share.
"""

from __future__ import annotations

import re
import string
from functools import lru_cache

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


@lru_cache(maxsize=16384)
def normalize_answer(text: str) -> str:
    """Lower case, no punctuation, no articles, single spaces. For short texts: results are
    remembered.
    """
    return normalize_text(text)


def normalize_text(text: str) -> str:
    """`normalize_answer` for long texts, which are not remembered."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())
