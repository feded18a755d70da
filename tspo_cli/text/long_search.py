"""Find an answer in a long text in a time that hardly depends on how nearly it occurs.

A regular expression tries every word of a text, and a near-miss costs it the length of the answer:
a second for a megabyte that repeats a gold answer of 200 words without its end. Here the letters of
the text are bits of an integer: whether an answer may begin there. For every letter of the answer,
one shift and one `and` leave the places from which the text goes on like the answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from tspo_cli.text.code_points import Codes, Places, codes_of

Flags = npt.NDArray[np.uint8]
Spans = npt.NDArray[np.int64]
"""Starts and ends, of shape [n, 2]."""
Allowed = Callable[[Flags], npt.NDArray[np.bool_]]

SPACE, POINT, COMMA, SIGN, MARK, END = (1 << bit for bit in range(6))
"""Flags of what stands between two letters; an article counts as a space."""
_BORDER = SPACE | SIGN | MARK | END
_CHECK_EVERY = 16


@dataclass(frozen=True, slots=True)
class Letter:
    """A letter of an answer, and what may follow it up to the next letter of a text."""

    code: int
    gap: str


GAPS: dict[str, Allowed] = {
    "any": lambda flags: np.ones(len(flags), bool),
    "some": lambda flags: flags != 0,
    "within a word": lambda flags: flags & (SPACE | POINT) == 0,
    "decimal point": lambda flags: (flags != 0) & (flags & (SPACE | COMMA | SIGN) == 0),
}
"""What may stand behind a letter that is not the last one, by name."""


@dataclass(frozen=True, slots=True)
class LongText:
    """The letters of a text: their codes and places, what stands between each and the next one, and
    whether a border stands before and behind it.
    """

    codes: Codes
    places: Places
    gaps: Flags
    begins: npt.NDArray[np.bool_]
    ends: npt.NDArray[np.bool_]


@lru_cache(maxsize=1)  # for the next answer
def long_text(words: str, kinds: tuple[tuple[str, int], ...]) -> LongText:
    """The letters of readable words. `kinds`: the characters that are none, with their flags."""
    table = np.zeros(128, np.uint8)
    for chars, flag in kinds:
        table[[ord(char) for char in chars]] = flag
    codes = codes_of(words)
    flags = np.pad(table[np.minimum(codes, 127)], 1, constant_values=END)
    letters = np.flatnonzero(flags == 0)
    gaps = np.bitwise_or.reduceat(flags, letters) if len(letters) else np.zeros(0, np.uint8)
    begins, ends = (flags[letters + side] & _BORDER != 0 for side in (-1, 1))
    return LongText(codes[letters - 1], letters - 1, gaps, begins, ends)


def starts(
    answer: list[Letter], text: LongText, *, begins: bool, ends: bool
) -> tuple[Places, bool]:
    """Where the letters of an answer may begin, as positions among the letters of the text, and
    whether all of its letters were compared: otherwise few places are left.

    begins, ends: whether a border must stand before and behind the answer.
    """
    masks: dict[Letter, int] = {}
    left = _bits(text.begins) if begins else (1 << len(text.codes)) - 1
    for number, letter in enumerate(answer):
        if letter not in masks:
            masks[letter] = _bits((text.codes == letter.code) & GAPS[letter.gap](text.gaps))
        left &= masks[letter] >> number
        if not left:
            break
        is_checked = number % _CHECK_EVERY == _CHECK_EVERY - 1
        if is_checked and left.bit_count() * len(answer) <= len(text.codes):
            return _places(left, len(text.codes)), False
    if ends and left:
        left &= _bits(text.ends) >> len(answer) - 1
    return _places(left, len(text.codes)), True


def _bits(true: npt.NDArray[np.bool_]) -> int:
    return int.from_bytes(np.packbits(true, bitorder="little").tobytes(), "little")


def _places(bits: int, size: int) -> Places:
    packed = np.frombuffer(bits.to_bytes(size // 8 + 1, "little"), np.uint8)
    return np.flatnonzero(np.unpackbits(packed, bitorder="little"))


def apart(spans: Spans) -> Spans:
    """The spans, sorted by their start, without those that overlap an earlier one of the result."""
    begins, ends = np.ascontiguousarray(spans.T)
    if len(spans) < 2 or (begins[1:] >= ends[:-1]).all():
        return spans
    following = memoryview(np.searchsorted(begins, np.maximum(ends, begins + 1)))
    is_kept, place = bytearray(len(spans)), 0
    while place < len(spans):
        is_kept[place] = True
        place = following[place]
    return spans[np.frombuffer(is_kept, bool)]


def matches(pattern: re.Pattern[str], words: str, places: Places) -> Spans:
    """The spans of a pattern where it matches at one of these places."""
    found = (pattern.match(words, place) for place in places.tolist())
    return as_spans([match.span() for match in found if match is not None])


def as_spans(pairs: Sequence[tuple[int, int]]) -> Spans:
    """Pairs of a start and an end, as an array also where there are none."""
    return np.array(pairs, np.int64).reshape(-1, 2)
