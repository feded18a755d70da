"""A cell with a list of strings, as Python prints it, is read as Python's own parser reads it."""

from __future__ import annotations

import ast
import json
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tspo_cli.data.formats.delimited import _cell

ESCAPES = [
    r"\n",
    r"\'",
    r"\"",
    r"\\",
    r"\x41",
    r"\u4e2d",
    r"\ud83d",
    r"\ud83d\ude00",
    r"\U0001f600",
]
ESCAPES += [r"\0", r"\101", r"\N{DASH}", r"\/"]
PARTS = st.sampled_from([*"ab'\"\\nux0{} ,[]\u00e9\u4e2d\U0001f600\x85\u2028\t", *ESCAPES])
TEXTS = st.lists(PARTS, max_size=6).map("".join)


def by_python(cell: str) -> object:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            value = ast.literal_eval(cell)
        except (ValueError, SyntaxError):
            return cell
    return value if isinstance(value, list) else cell


@given(texts=st.lists(st.text() | TEXTS, min_size=1, max_size=4))
def test_what_python_prints_is_read_back(texts: list[str]) -> None:
    assert _cell("answers", repr(texts)) == texts


@given(texts=st.lists(TEXTS, min_size=1, max_size=4), quote=st.sampled_from(["'", '"']))
def test_any_escape_is_read_as_python_or_json_reads_it(texts: list[str], quote: str) -> None:
    cell = f"[{', '.join(quote + text + quote for text in texts)}]"
    try:
        expected = json.loads(cell)
    except ValueError:
        expected = by_python(cell)
    assert _cell("answers", cell) == expected


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        (r"['it\'s', 'a\nb']", ["it's", "a\nb"]),
        (r'["\ud83d\ude00"]', ["\U0001f600"]),
        (r'["a\/b"]', ["a/b"]),
        (r"['a\x00b', 'c']", ["a\0b", "c"]),
        ("['\\\u00e9']", ["\\\u00e9"]),
        (r"['\x4']", r"['\x4']"),
        ("['a', 5]", ["a", 5]),
    ],
)
def test_known_cells(cell: str, value: object) -> None:
    assert _cell("answers", cell) == value
