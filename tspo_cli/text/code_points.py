"""Long texts as arrays of code points, where a loop over their characters would be slow."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.uint8] | npt.NDArray[np.uint32]
Places = npt.NDArray[np.int64]

_LONG = 4096
"""Characters from which arrays are faster than `str.translate`."""
_MOST = 0x110000


def codes_of(text: str) -> Codes:
    """The code points of a text, as bytes where all are ASCII."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.dtype("<u4"))


def text_of(codes: Codes) -> str:
    """The text of code points as `codes_of` gives them."""
    if codes.dtype == np.uint8:
        return codes.tobytes().decode("ascii")
    return codes.tobytes().decode("utf-32-le", "surrogatepass")


def translated(text: str, forms: dict[int, str]) -> str:
    """`text.translate(forms)`, also fast for long texts of other scripts."""
    if text.isascii() or len(text) < _LONG:
        return text.translate(forms)
    return _spelled(text, forms)[0]


def spelled(text: str, forms: dict[int, str]) -> tuple[str, Places]:
    """`text` with the form of every character in its place, and for every character of the result
    the place in `text` that it comes from.
    """
    result, lengths = _spelled(text, forms)
    places = np.arange(len(text))
    return result, places if lengths is None else np.repeat(places, lengths)


def _spelled(text: str, forms: dict[int, str]) -> tuple[str, Places | None]:
    """`text` with the form of every character in its place, and the lengths of these forms; None:
    1 each.
    """
    codes = codes_of(text)
    occurs = np.zeros(_MOST, bool)
    occurs[codes] = True
    distinct = np.flatnonzero(occurs)
    becomes = [forms[code] for code in distinct.tolist()]
    lengths = np.fromiter(map(len, becomes), np.int64, len(becomes))
    flat = codes_of("".join(becomes))
    is_one_each = (lengths == 1).all()
    if is_one_each and np.array_equal(flat, distinct):
        return text, None
    rank = np.empty(_MOST, np.int32)
    rank[distinct] = np.arange(len(distinct))
    ranks = rank[codes]
    if is_one_each:
        return text_of(flat[ranks]), None
    each = lengths[ranks]
    # Where the form of a character begins in `flat`, less where it begins in the result.
    begins = (np.cumsum(lengths) - lengths)[ranks] - (np.cumsum(each) - each)
    places = np.repeat(begins, each)
    places += np.arange(len(places))
    return text_of(flat[places]), each


def without(text: str, unwanted: npt.NDArray[np.bool_]) -> tuple[str, npt.NDArray[np.bool_]]:
    """`text` without the characters whose code point is marked in `unwanted`, and which characters
    of `text` are left. Code points beyond the end of `unwanted` are kept.
    """
    codes = codes_of(text)
    last = len(unwanted) - 1
    assert not unwanted[last]
    is_left = ~unwanted[np.minimum(codes, np.uint32(last))]
    return text if is_left.all() else text_of(codes[is_left]), is_left
