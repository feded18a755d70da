"""How much of the retrieved passages the model was shown: an observation is cut to its limit."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tspo_cli.text.overlaps import overlap

_END = re.compile(r"</information>\s*$")


def shown_lengths(texts: Sequence[str], feedback: str) -> list[int] | None:
    """For each passage text, the number of its first characters that stand in `feedback`, which
    has the passages in this order. None for an empty feedback: it was not recorded.
    """
    if not feedback:
        return None
    inner = _END.sub("", feedback).rstrip("\ufffd")  # a cut may have split a character
    lengths = []
    place = 0
    for text in texts:
        body = text.rstrip()
        start = inner.find(body, place)
        if start >= 0:
            place = start + len(body)
            lengths.append(len(text))
        else:
            lengths.append(_beginning(body, inner[place:]))
            place = len(inner)  # what follows a cut was not shown
    return lengths


def is_cut(texts: Sequence[str], feedback: str) -> bool:
    """True if some text of a passage is not in the observation."""
    lengths = shown_lengths(texts, feedback)
    return lengths is not None and any(
        length < len(text) for length, text in zip(lengths, texts, strict=True)
    )


def _beginning(text: str, observation: str) -> int:
    """The length of the longest beginning of `text` that ends the observation, after a space."""
    return max(0, overlap(f" {text}", observation) - 1)
