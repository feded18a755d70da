"""Whole numbers in texts of others. `str.isdigit` is true of ², which is no number for `int`, and
`int` refuses thousands of digits.
"""

from __future__ import annotations

DIGITS = 18
"""So many digits fit into 64 bits."""


def whole_number(text: str, digits: int = DIGITS) -> int | None:
    """The number that up to so many ASCII digits are; None for any other text."""
    is_number = len(text) <= digits and text.isascii() and text.isdigit()
    return int(text) if is_number else None
