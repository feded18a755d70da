"""Compare answers after SQuAD's normalisation (Rajpurkar et al. 2016), and find them in texts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Literal

from tspo_cli.data.normal_form import normalize_answer, normalize_text
from tspo_cli.data.word_forms import Readable, wanted

Match = Literal["either_word_form", "norm_token_boundary", "norm_substring", "raw_lower"]

# What the search protocol adds around passages and the model's own words: a gold answer
# "information" or "doc" must not be found there, and removing the punctuation of "<answer>Paris"
# must not glue the tag to the word.
_TAG = re.compile(r"</?(?:information|search|answer|think)>")
_TAG_OR_HEADING = re.compile(rf"{_TAG.pattern}|\bDoc \d+\s?\(Title:")


def exact_match(answer: str | None, golds: Sequence[str]) -> bool:
    """True when the normalised answer equals a normalised gold.

    A gold of articles and punctuation alone ("The The") normalises to nothing and is compared in
    lower case instead.
    """
    if answer is None:
        return False
    normal = normalize_answer(answer)
    raw = answer.strip().lower()
    return any(
        normal == (normalize_answer(gold) or None) or raw == gold.strip().lower() != ""
        for gold in golds
    )


def f1_score(answer: str | None, golds: Sequence[str]) -> float:
    """Best F1 of the bags of normalised words over all golds, 0 to 1."""
    words = normalize_answer(answer or "").split()
    bags = [Counter(normalize_answer(gold).split()) for gold in golds]
    known = {word for bag in bags for word in bag}
    shared = Counter(filter(known.__contains__, words))
    return max((_f1(shared, bag, len(words)) for bag in bags), default=0.0)


def _f1(answer: Counter[str], gold: Counter[str], words: int) -> float:
    """`answer`: the bag of its words that may be in `gold`, of `words` in all."""
    common = (answer & gold).total()
    return 2 * common / (words + gold.total()) if common else 0.0


def contains_answer(text: str, golds: Sequence[str], match: Match = "either_word_form") -> bool:
    """True when a gold occurs in `text`; tags and headings of the search protocol in `text` do not
    count.

    either_word_form: whole words in a row, each punctuation mark read as a space or as nothing (see
    `data/word_forms.py`). norm_token_boundary: the words as SQuAD normalises them, punctuation
    deleted. norm_substring: also inside a word. raw_lower: lower case only. A gold that normalises
    to nothing is never found.
    """
    if not text:
        return False
    if match == "either_word_form":
        readable = _readable(text)
        answers = [wanted(gold) for gold in golds]
        if any(answer.is_in(readable) for answer in answers if answer is not None):
            return True
        # Of an answer without letters and digits, such as "∞", SQuAD's form keeps something.
        golds = [gold for gold, answer in zip(golds, answers, strict=True) if answer is None]
        if not golds:
            return False
        match = "norm_token_boundary"
    if match == "raw_lower":
        lower = _unwrapped(text).lower()
        return any(gold.strip().lower() in lower for gold in golds if normalize_answer(gold))
    padded = _padded(text)
    edge = " " if match == "norm_token_boundary" else ""
    return any(
        f"{edge}{normal}{edge}" in padded for normal in map(normalize_answer, golds) if normal
    )


def is_degenerate(gold: str) -> bool:
    """True for yes, no and golds of at most one character after normalisation: found anywhere, they
    prove nothing.
    """
    normal = normalize_answer(gold)
    return len(normal) <= 1 or normal in ("yes", "no")


def blanked(text: str) -> str:
    """`text` with spaces for tags and headings of the search protocol. Letters keep their place."""
    return _replaced(text, lambda found: " " * len(found.group()))


def _unwrapped(text: str) -> str:
    return _replaced(text, " ")


def _replaced(text: str, by: str | Callable[[re.Match[str]], str]) -> str:
    if "(Title:" in text:
        return _TAG_OR_HEADING.sub(by, text)
    return _TAG.sub(by, text) if "<" in text else text


@lru_cache(maxsize=4096)
def _readable(text: str) -> Readable:
    return Readable.of(_unwrapped(text))


@lru_cache(maxsize=4096)
def _padded(text: str) -> str:
    return f" {normalize_text(_unwrapped(text))} "


def clear_texts() -> None:
    """Forget the texts that were searched, for measurements of time."""
    _readable.cache_clear()
    _padded.cache_clear()
