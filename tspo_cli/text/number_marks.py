"""The marks within numbers of a readable text: those of `1,500`, `3.5`, `1/2` and `10^2`.

Dates such as 4.7.1776 keep their marks, as do numbers that end where no number can, such as 1,50.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt

from tspo_cli.text.code_points import Codes, codes_of, text_of

INSIDE, DECIMAL = "\x1f", "\x1e"
"""Stand for the commas and for the point inside a number of a readable text. (ASCII, so that ASCII
stays fast.)
"""
_LONG = 2048
"""Characters from which arrays are faster than a pattern for texts full of numbers."""
# A number begins with a digit that follows no digit, point or comma. (The digit first: patterns
# that begin with a character are searched much faster.)
_NUMBER = re.compile(
    r"[0-9](?<![0-9.,].)(?:[0-9]{0,2}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]*\.[0-9]+)(?![.,]?[0-9])"
)
# Such a point stands between thousands.
_THOUSANDS = re.compile(r"[1-9][0-9]{0,2}\.[0-9]{3}")
# A slash, and what sets a superscript apart from a digit; not its second digit from its first.
_SLASHES, _CARET = "/\u2044^\u207b", ord("^")
_SLASH = re.compile(rf"[{_SLASHES}](?<=[0-9].)(?<!\^[0-9]\^)(?=\^?[0-9])")


def with_whole_numbers(text: str) -> str:
    """`text` with `INSIDE` for the mark of `1,500`, `DECIMAL` for that of `3.5` and a space for
    that of `1/2` and `10^2`.

    Every character keeps its place.
    """
    text = text.replace(INSIDE, " ").replace(DECIMAL, " ")
    if len(text) < _LONG:
        return _NUMBER.sub(_read, _SLASH.sub(" ", text))
    if any(slash in text for slash in _SLASHES):
        text = _with_spaces(text)
    return _with_marks(text) if "." in text or "," in text else text


def _read(number: re.Match[str]) -> str:
    point = INSIDE if _THOUSANDS.fullmatch(number[0]) else DECIMAL
    return number[0].replace(",", INSIDE).replace(".", point)


def _with_spaces(text: str) -> str:
    """`_SLASH.sub(" ", text)` by arrays."""
    codes = codes_of(f"  {text}  ").copy()
    places = np.flatnonzero(_is_one_of(_SLASHES, codes))
    behind = codes[places + 1]
    is_before_digit = _is_digit(behind) | (behind == _CARET) & _is_digit(codes[places + 2])
    is_second = (codes[places] == _CARET) & (codes[places - 2] == _CARET)
    codes[places[_is_digit(codes[places - 1]) & is_before_digit & ~is_second]] = ord(" ")
    return text_of(codes[2:-2])


def _with_marks(text: str) -> str:
    """`_NUMBER.sub(_read, text)` by arrays: of the groups of digits that one mark sets apart."""
    codes = codes_of(f" {text} ").copy()
    is_digit = _is_digit(codes)
    if not is_digit.any():
        return text
    starts = np.flatnonzero(is_digit[1:] & ~is_digit[:-1]) + 1
    ends = np.flatnonzero(is_digit[:-1] & ~is_digit[1:]) + 1
    is_point, is_mark = codes[ends] == ord("."), _is_one_of(".,", codes[ends])
    # Whether a mark joins a group to the next one, and to the one before.
    joins = np.append(is_mark[:-1] & (starts[1:] == ends[:-1] + 1), False)
    joined = np.append(False, joins[:-1])
    begins, is_last = joins & ~joined, ~np.append(joins[1:], False)
    is_three = np.append(ends[1:] - starts[1:] == 3, False)
    is_short = ends - starts <= 3
    fits = np.where(is_point, is_last, is_three & (is_short | joined))
    # One that does not fit, or a mark before the first group, spoils all of the number.
    spoilt = joins & ~fits | begins & _is_one_of(".,", codes[starts - 1])
    number = np.cumsum(begins)
    is_spoilt = np.zeros(len(starts) + 1, bool)
    is_spoilt[number[spoilt]] = True
    kept = joins & ~is_spoilt[number]
    thousands = begins & is_last & is_three & is_short & (codes[starts] != ord("0"))
    codes[ends[kept]] = np.where(is_point & ~thousands, ord(DECIMAL), ord(INSIDE))[kept]
    return text_of(codes[1:-1])


def _is_digit(codes: Codes) -> npt.NDArray[np.bool_]:
    return (codes >= ord("0")) & (codes <= ord("9"))


def _is_one_of(chars: str, codes: Codes) -> npt.NDArray[np.bool_]:
    return np.logical_or.reduce([codes == ord(char) for char in chars])
