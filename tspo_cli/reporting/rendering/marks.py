"""Texts of models and corpora as they are shown: gold answers marked, control characters made
harmless.
"""

from __future__ import annotations

import re
import string
from collections.abc import Sequence

from tspo_cli.credit.gold_match import contains_answer, is_degenerate, normalize_answer

# Control characters could steer the terminal, and turn the direction of what follows; their
# pictures cannot.
_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | dict.fromkeys(
    [*range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)], 0xFFFD
)
_WORD = re.compile(r"\S+")


def printable(text: str) -> str:
    """`text` with control characters replaced, for a terminal. Line ends and tabs stay."""
    return text.translate(_CONTROLS)


def marked(text: str, golds: Sequence[str]) -> list[str]:
    """`text` in pieces, in turn plain and gold: the pieces at odd places are gold answers. Joined
    they are `text`.

    Words are compared as `contains_answer` does with token boundaries. Golds such as yes and no are
    never marked.
    """
    if not contains_answer(text, [gold for gold in golds if not is_degenerate(gold)]):
        return [text]  # most passages: much faster than word by word
    words = [
        (normal, match.start(), match.end())
        for match in _WORD.finditer(text)
        for normal in normalize_answer(match.group()).split()
    ]
    wanted = [normalize_answer(gold).split() for gold in golds if not is_degenerate(gold)]
    pieces: list[str] = []
    done = index = 0
    while index < len(words):
        length = max((len(gold) for gold in wanted if _matches(words, index, gold)), default=0)
        if length:
            start, end = _trimmed(text, words[index][1], words[index + length - 1][2])
            if start >= done:
                pieces += [text[done:start], text[start:end]]
                done = end
        index += length or 1
    return [*pieces, text[done:]]


def _matches(words: Sequence[tuple[str, int, int]], index: int, gold: Sequence[str]) -> bool:
    return [word for word, _, _ in words[index : index + len(gold)]] == list(gold)


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start] in string.punctuation:
        start += 1
    while end > start and text[end - 1] in string.punctuation:
        end -= 1
    return start, end
