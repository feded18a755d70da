"""Texts of models, corpora, servers and file names, made harmless for a terminal, page or table.

Control characters and escapes could steer a terminal; marks of direction could show a text in
another order than it has. Their pictures, or the replacement character, cannot.
"""

from __future__ import annotations

from typing import Any

_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"}
_REPLACED = [
    *range(0x7F, 0xA0),  # DEL, and the control characters of 8-bit terminals
    0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A),  # directions
    0x2028, 0x2029,  # ends of lines that only some programs know
    *range(0xD800, 0xE000),  # halves of surrogate pairs, which have no UTF-8 form
]  # fmt: skip
_UNSAFE = _PICTURES | dict.fromkeys(_REPLACED, 0xFFFD)
_LINE_END = {ord("\n"): 0x240A}


def printable(text: str) -> str:
    """`text` with control characters and marks of direction replaced. Line ends and tabs stay."""
    return text.translate(_UNSAFE)


def printable_values(value: Any) -> Any:
    """Nested lists and tables with every text in them `printable`."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {printable_values(name): printable_values(part) for name, part in value.items()}
    return [printable_values(part) for part in value] if isinstance(value, list | tuple) else value


def one_line(text: str) -> str:
    """`printable` text on one line: the pictures of line ends stand for them."""
    return printable(text).translate(_LINE_END)
