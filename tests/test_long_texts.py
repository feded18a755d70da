"""Long texts are read by arrays and bits: the same results as character by character."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tspo_cli.credit.gold_match import contains_answer
from tspo_cli.data.normal_form import normalize_text
from tspo_cli.data.word_forms import Readable, spans, wanted
from tspo_cli.reporting.rendering.marks import marked
from tspo_cli.text.code_points import codes_of, spelled, text_of, translated
from tspo_cli.text.number_marks import DECIMAL, INSIDE, with_whole_numbers

PIECES = (
    *("so", "So ", "so-", "x", "xx ", "a ", "the ", "The ", "an", " ", "-", ".", "\n", "\xad", "'"),
    *("1,500", "3.5", "1.500", "1/2", "4.7.1776", ",", "5", "é", "e\u0301", "\u0301", "à", "İ"),
    *("æ", "ß", "ﬁ", "Ⅳ", "½", "²", "中", "文", "c++", "#", "의", "가", "나 ", "는", "한 을", "ʻ"),
    *("ไทย", "ก\u0e48", "の", "¹²", "10⁻⁶", "か\u3099", "\u3099"),
    *("U.S.", "😀", "\ud800", "\x1f", "\x1e", "\x01", "\u05d0\u05b0", "ﷺ"),
)
TEXTS = st.lists(st.sampled_from(PIECES), max_size=14).map("".join)
GOLDS = st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map("".join)
LETTERS = 60_000
"""Enough for bits, whatever the answer."""


def repeated(unit: str, size: int) -> str:
    """`unit` again and again, `size` characters or more."""
    return unit * (size // len(unit) + 1)


class Forms(dict[int, str]):
    """Some characters become none, one other, or several."""

    def __missing__(self, code: int) -> str:
        return {0: "", 1: "ab", 2: "é", 3: "😀"}.get(code % 7, chr(code))


@given(text=st.text())
def test_a_text_is_spelled_as_by_translate(text: str) -> None:
    assert text_of(codes_of(text)) == text
    result, places = spelled(text, Forms())
    expected = [(place, char) for place, c in enumerate(text) for char in Forms()[ord(c)]]
    assert [*zip(places.tolist(), result, strict=True)] == expected
    long = repeated(text + "é", 5000)
    assert translated(long, Forms()) == long.translate(Forms())


@settings(deadline=None)
@given(unit=TEXTS)
@example(unit="a—an—the—a")
@example(unit="a\x01b the_a à a\u0301 THE")
@example(unit="an\u3099 ²a a² thea the")
def test_the_normal_form_of_a_long_text_is_that_of_its_parts(unit: str) -> None:
    many = 5000 // (len(unit) + 1) + 1
    assert normalize_text(f"{unit}\n" * many).split() == normalize_text(unit).split() * many


@settings(deadline=None)
@given(unit=TEXTS, gold=GOLDS, start=st.integers(0, 20), end=st.sampled_from(("", "x", " ", "a ")))
@example(unit="so-", gold="so so so so so so so", start=0, end="")
@example(unit="so-so", gold="so so so", start=0, end="")
@example(unit="c+ ", gold="c++ c++", start=0, end="")
@example(unit="c++ ", gold="c++ c++ c++", start=0, end="")
@example(unit="3.5", gold="3.5", start=0, end="")
@example(unit="x a ", gold="x a", start=0, end="")
@example(unit="한 은 ", gold="한", start=0, end="")
@example(unit="中文", gold="文中", start=0, end="")
@example(unit="x-x ", gold="x x", start=0, end="")
@example(unit="中x5은", gold="x5", start=0, end="")
@example(unit="5한은", gold="한", start=0, end="")
def test_an_answer_stands_where_its_pattern_matches(
    unit: str, gold: str, start: int, end: str
) -> None:
    for looked_for in (gold, f"{unit}{unit}"[start : start + 12]):
        answer = wanted(looked_for)
        if answer is None:
            continue
        unit_letters = max(1, len(Readable.of(unit).letters))
        text = Readable.of(repeated(unit or "-", LETTERS * len(unit or "-") // unit_letters) + end)
        found = [match.span() for match in answer.pattern.finditer(text.words)]
        assert [*map(tuple, answer.spans_in(text).tolist())] == found
        assert answer.is_in(text) == bool(found)


@pytest.mark.parametrize(
    ("start", "near_miss", "end", "gold"),
    [
        ("", "so-" * 199 + "s ", "", "so " * 200),
        ("", "so-" * 198 + "soso-", "", "so " * 200),
        ("so" * 200 + " ", "so " * 199 + "s ", "so" * 199, "so " * 200),
        ("", "word ", "", "word " * 399 + "words"),
    ],
)
def test_near_misses_of_a_long_answer(start: str, near_miss: str, end: str, gold: str) -> None:
    text = start + repeated(near_miss, 500_000)
    assert not contains_answer(text + end, [gold])
    assert contains_answer(f"{text} {gold} {end}", [gold])


@settings(deadline=None)
@given(text=TEXTS, gold=GOLDS)
def test_marks_in_a_long_text_are_those_of_its_parts(text: str, gold: str) -> None:
    unit = f"\nzz {text} zz\n"
    answer = wanted(gold)
    once = [] if answer is None else spans(unit, [answer]).tolist()
    again = [] if answer is None else spans(unit * 2000, [answer]).tolist()
    assert again == [
        [start + number * len(unit), end + number * len(unit)]
        for number in range(2000)
        for start, end in once
    ]


def test_as_many_marks_as_there_are_answers() -> None:
    pieces = marked("é " + "x-" * 100_000, ["x x"])
    assert pieces[1::2] == ["x-x"] * 50_000
    assert "".join(pieces) == "é " + "x-" * 100_000


NUMBER = re.compile(
    r"(?<![0-9.,])(?:[0-9]{1,3}(?:,[0-9]{3})+(?:\.[0-9]+)?|[0-9]+\.[0-9]+)(?![.,]?[0-9])"
)
SLASH = re.compile("(?<=[0-9])(?!(?<=\\^[0-9])\\^)[/\u2044^\u207b](?=\\^?[0-9])")


@given(text=st.text("0159.,/^\u2044\u207b x\u4e2d", max_size=40))
@example(text="1,500.5 1.500 0.500 12.50 1,50 4.7.1776 1/2 .5 5. 123.456,789")
@example(text="...,,,")
@example(text="1^2^3^ 4^5/6")
def test_numbers_are_read_together_as_one_by_one(text: str) -> None:
    def read(number: re.Match[str]) -> str:
        is_thousands = re.fullmatch(r"[1-9][0-9]{0,2}\.[0-9]{3}", number[0])
        return number[0].replace(",", INSIDE).replace(".", INSIDE if is_thousands else DECIMAL)

    spaced = SLASH.sub(" ", text)
    whole = NUMBER.sub(read, spaced)
    assert with_whole_numbers(text) == whole
    assert with_whole_numbers(repeated(f"{text} x", 2000)) == repeated(f"{whole} x", 2000)
