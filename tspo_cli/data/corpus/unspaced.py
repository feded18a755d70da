"""Scripts that are written without spaces between words: Chinese, Japanese, Thai, Lao, Khmer,
Burmese.
"""

from __future__ import annotations

import re
import unicodedata

_RANGES = (
    "\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"  # kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"  # Han
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e80-\u0ecf\u0edc-\u0eff"  # Thai, Lao; their digits are words
    "\u1000-\u103f\u1050-\u109f\u1780-\u17d3\u17dc\u17dd"  # Burmese, Khmer
)
UNSPACED = _RANGES
"""The letters and signs of these scripts, for a character class of a regular expression."""
MARKS = "".join(
    chr(code)
    for code in (*range(0x0E00, 0x0F00), *range(0x1000, 0x10A0), *range(0x1780, 0x1800))
    if unicodedata.category(chr(code)) in ("Mn", "Mc")
)
"""Vowel and tone signs that stand on the letter before them, for a character class."""
_RUNS = re.compile(f"[{UNSPACED}]+")
_LETTERS = re.compile(r"\w")


def unspaced_share(text: str) -> float:
    """The share of the letters of `text` that belong to scripts without spaces, 0 to 1."""
    if text.isascii():
        return 0.0
    unspaced = sum(map(len, _RUNS.findall(text)))
    others = sum(1 for _ in _LETTERS.finditer(_RUNS.sub("", text)))
    return unspaced / (unspaced + others) if unspaced else 0.0
