"""The header of a GGUF file, examined before a library reads it: that takes every count in it for
true, and goes on for ever, or reads weights from anywhere.
"""

from __future__ import annotations

import math
import mmap
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct, calcsize
from typing import Any

from tspo_cli.console import counted
from tspo_cli.errors import InvalidInputError

_INTEGERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 10: "Q", 11: "q"}
"""Forms of `struct`, by the type of a value."""
_SIZES = {6: 4, 7: 1, 12: 8} | {kind: calcsize(f"<{form}") for kind, form in _INTEGERS.items()}
"""Bytes of a value, by its type."""
_STRING, _ARRAY = 8, 9
_VERSIONS = (2, 3)
_MOST_NESTED = 4
_MOST_DIMENSIONS = 4
_MOST = {"arrays within arrays": 2**10, "fields": 2**14, "tensors": 2**17, "values": 2**21}
"""Libraries take 10 to 50 microseconds for each. The largest models have 5,000 tensors and 1.3
million values, most of them words of the tokenizer; none has arrays within arrays.
"""
_BLOCK = re.compile(r"blk\.(\d{1,6})\.")
_DEFAULT_ALIGNMENT = 32


@dataclass
class _Cursor:
    """A place in the bytes of a file, which every read moves on and none moves beyond the end."""

    data: Any
    order: str
    at: int = 0
    counts: Counter[str] = field(default_factory=Counter)

    def skip(self, count: int) -> int:
        """The place before `count` bytes, which are there."""
        before = self.at
        if count > len(self.data) - before:
            raise ValueError(f"{counted(count, 'byte')} at {before:,} of {len(self.data):,}")
        self.at += count
        return before

    def number(self, form: str) -> int:
        """The next integer, of a form of `struct`."""
        packed = Struct(self.order + form)
        value: int = packed.unpack_from(self.data, self.skip(packed.size))[0]
        return value

    def expect(self, count: int, size: int, what: str) -> None:
        """Count things of at least `size` bytes that follow, as many as a model can have."""
        if count * size > len(self.data) - self.at:
            raise ValueError(
                f"{counted(count * size, 'byte')} at {self.at:,} of {len(self.data):,}"
            )
        self.counts[what] += count
        if self.counts[what] > _MOST[what]:
            raise ValueError(f"more than {_MOST[what]:,} {what}")

    def text(self) -> str:
        """The next string."""
        start = self.skip(self.number("Q"))
        return bytes(self.data[start : self.at]).decode()


def check_header(file: Path) -> None:
    """Refuse a file whose header says what cannot be: counts and lengths beyond its end, tensors
    outside it or over each other, or another number of layers than it has tensors for.

    Raises:
        InvalidInputError: it does.
    """
    with open(file, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            _check(data)
        except ValueError as error:  # also bytes that are no UTF-8
            raise InvalidInputError(
                f"{file}: damaged or cut short ({error}); download it again"
            ) from None


def _check(data: mmap.mmap) -> None:
    cursor = _Cursor(data, "<", 4)
    version = cursor.number("I")
    if version % 65536 == 0:  # of a machine with the other order of bytes
        cursor.order, version = ">", version >> 24
    if version not in _VERSIONS:
        return  # the library says so
    tensors, fields = cursor.number("Q"), cursor.number("Q")
    values = {}
    cursor.expect(fields, 13, "fields")
    for _ in range(fields):
        name = cursor.text()
        values[name] = _value(cursor, cursor.number("I"))
    places, names = [], []
    cursor.expect(tensors, 32, "tensors")
    for _ in range(tensors):
        names.append(cursor.text())
        places.append(_place(cursor, names[-1]))
    alignment = values.get("general.alignment") or _DEFAULT_ALIGNMENT
    start = math.ceil(cursor.at / alignment) * alignment
    end = 0
    for offset, size, name in sorted(places):
        if offset < end or offset % alignment or start + offset + size > len(data):
            raise ValueError(
                f"tensor {name}: expected {counted(size, 'byte')} of its own, got them at "
                f"{offset:,} of {max(0, len(data) - start):,}"
            )
        end = offset + size
    layers = {int(found[1]) for name in names if (found := _BLOCK.match(name))}
    expected = next((v for k, v in values.items() if k.endswith(".block_count")), None)
    is_whole = (values.get("split.count") or 1) == 1  # a part has the tensors of some layers
    if is_whole and layers and expected is not None and expected != max(layers) + 1:
        raise ValueError(f"block_count is {expected:,}, its tensors are of {max(layers) + 1:,}")


def _value(cursor: _Cursor, kind: int, depth: int = 0) -> int | None:
    """Move over a value; an integer is given back."""
    if kind in _INTEGERS:
        return cursor.number(_INTEGERS[kind])
    if kind == _STRING:
        cursor.skip(cursor.number("Q"))
    elif kind == _ARRAY:
        item, count = cursor.number("I"), cursor.number("Q")
        what = "arrays within arrays" if item == _ARRAY else "values"
        cursor.expect(count, _SIZES.get(item, 8), what)
        if item in _SIZES:
            cursor.skip(count * _SIZES[item])
        elif depth == _MOST_NESTED:
            raise ValueError(f"arrays within each other, more than {_MOST_NESTED}")
        else:
            for _ in range(count):
                _value(cursor, item, depth + 1)
    elif kind in _SIZES:
        cursor.skip(_SIZES[kind])
    else:
        raise ValueError(f"no type of value has the number {kind}")
    return None


def _place(cursor: _Cursor, name: str) -> tuple[int, int, str]:
    """The next tensor: where it begins in the data, its bytes, and its name."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    count = cursor.number("I")
    if not 0 < count <= _MOST_DIMENSIONS:
        raise ValueError(f"tensor {name}: {count:,} dimensions")
    weights = math.prod(cursor.number("Q") for _ in range(count))
    kind, offset = cursor.number("I"), cursor.number("Q")
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    return offset, weights // block * size, name
