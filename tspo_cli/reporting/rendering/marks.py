"""Texts of models and corpora as they are shown: gold answers marked, control characters made
harmless.
"""

from __future__ import annotations

from collections.abc import Sequence

from tspo_cli.credit.gold_match import contains_answer, is_degenerate
from tspo_cli.data.word_forms import spans, wanted

# Control characters could steer the terminal, and turn the direction of what follows; their
# pictures cannot.
_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | dict.fromkeys(
    [*range(127, 160), *range(0x202A, 0x202F), *range(0x2066, 0x206A)], 0xFFFD
)


def printable(text: str) -> str:
    """`text` with control characters replaced, for a terminal. Line ends and tabs stay."""
    return text.translate(_CONTROLS)


def marked(text: str, golds: Sequence[str]) -> list[str]:
    """`text` in pieces, in turn plain and gold: the pieces at odd places are gold answers. Joined
    they are `text`.

    Answers are found as `contains_answer` finds them by default. Golds such as yes and no are
    never marked.
    """
    plain = [gold for gold in golds if not is_degenerate(gold)]
    if not contains_answer(text, plain):
        return [text]  # most passages: much faster than letter by letter
    answers = [answer for answer in map(wanted, plain) if answer is not None]
    pieces: list[str] = []
    done = 0
    for start, end in spans(text, answers):
        pieces += [text[done:start], text[start:end]]
        done = end
    return [*pieces, text[done:]]
