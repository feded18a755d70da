"""Texts of models and corpora as they are shown: gold answers marked."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from tspo_cli.credit.gold_match import blanked, contains_answer, is_degenerate
from tspo_cli.data.word_forms import spans, wanted


def marked(text: str, golds: Sequence[str]) -> list[str]:
    """`text` in pieces, in turn plain and gold: the pieces at odd places are gold answers. Joined
    they are `text`.

    Answers are found as `contains_answer` finds them by default. Golds such as yes and no, and
    those without a letter or digit, are never marked.
    """
    plain = [gold for gold in golds if not is_degenerate(gold)]
    if not contains_answer(text, plain):
        return [text]  # most passages: much faster than letter by letter
    answers = [answer for answer in map(wanted, plain) if answer is not None]
    edges = [0, *spans(blanked(text), answers).ravel().tolist(), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]
