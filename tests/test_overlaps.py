"""Places in texts that overlap themselves, against a search that tries them all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tspo_cli.rollout.shown import shown_lengths
from tspo_cli.text.overlaps import common_length, occurrences, overlap


@st.composite
def repetitive(draw: st.DrawFn) -> str:
    """A text that repeats a few letters, with at most two letters changed."""
    unit = draw(st.text("ab ", min_size=1, max_size=5))
    letters = list((unit * 40)[: draw(st.integers(1, 40))])
    for place in draw(st.lists(st.integers(0, len(letters) - 1), max_size=2)):
        letters[place] = draw(st.sampled_from("abc "))
    return "".join(letters)


TEXTS = st.text("ab ", max_size=30) | repetitive()


@given(text=TEXTS, part=TEXTS, cut=st.tuples(st.integers(0, 40), st.integers(0, 12)))
def test_every_place_is_found_once_and_in_order(text: str, part: str, cut: tuple[int, int]) -> None:
    for wanted in (part, text[cut[0] : sum(cut)]):
        found = [place for places in occurrences(wanted, text) for place in places]
        tried = range(len(text) - len(wanted) + 1) if wanted else ()
        assert found == [place for place in tried if text.startswith(wanted, place)]


def test_places_that_repeat_themselves_are_few_ranges() -> None:
    text = ("so" * 1000 + "s") * 3
    assert len(list(occurrences("so" * 400, text))) == 3
    assert sum(map(len, occurrences("so" * 400, text))) == 3 * 601


@given(text=TEXTS, more=TEXTS, start=st.integers(0, 40))
def test_the_longest_beginning_that_ends_a_text(text: str, more: str, start: int) -> None:
    for beginning in (more, text[start:] + more, text[start % 4 :]):
        lengths = range(min(len(beginning), len(text)) + 1)
        longest = max(length for length in lengths if text.endswith(beginning[:length]))
        assert overlap(beginning, text) == longest


@given(one=TEXTS, other=TEXTS, start=st.integers(0, 40), place=st.integers(0, 40))
def test_the_common_length(one: str, other: str, start: int, place: int) -> None:
    start, place = min(start, len(one)), min(place, len(other))
    same = [a == b for a, b in zip(one[start:], other[place:], strict=False)]
    assert common_length(one, start, other, place) == [*same, False].index(False)


@given(text=TEXTS, feedback=TEXTS)
def test_a_cut_passage_is_shown_up_to_its_longest_beginning_after_a_space(
    text: str, feedback: str
) -> None:
    lengths = shown_lengths([text], feedback)
    body, whole = text.rstrip(), len(text)
    if not feedback:
        assert lengths is None
        return
    cuts = (n for n in range(len(body), 0, -1) if feedback.endswith(f" {body[:n]}"))
    assert lengths == [whole if body in feedback else next(cuts, 0)]


@pytest.mark.parametrize("unit", ["a ", "b", "ab", "a b a "])
def test_a_long_passage_that_repeats_itself(unit: str) -> None:
    text = unit * 100_000
    shown = len(text) // 2 // len(unit) * len(unit)
    assert shown_lengths([text], f"Doc 1 {text[:shown]}") == [shown]
    assert shown_lengths([text], f"Doc 1 {text[:shown]}x") == [0]
