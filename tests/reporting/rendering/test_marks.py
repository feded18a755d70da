"""Gold answers are marked without changing the text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tspo_cli.credit.gold_match import contains_answer, is_degenerate
from tspo_cli.reporting.rendering.marks import marked
from tspo_cli.text.printable import printable

WORDS = st.text(alphabet="ab the.,-'U é\n<", max_size=40)


@given(text=WORDS, golds=st.lists(WORDS, max_size=3))
def test_pieces_join_to_the_text_and_marks_mean_a_hit(text: str, golds: list[str]) -> None:
    pieces = marked(text, golds)
    assert "".join(pieces) == text
    assert len(pieces) % 2 == 1
    plain = [gold for gold in golds if not is_degenerate(gold)]
    assert (len(pieces) > 1) == contains_answer(text, plain)


@pytest.mark.parametrize(
    ("text", "gold", "expected"),
    [
        ("In the U.S., as ever.", "us", ["U.S"]),
        ("Rome (Roma), the Eternal City.", "The Eternal City", ["Eternal City"]),
        ("Romeo and Juliet", "Rome", []),
        ("Answer: yes", "yes", []),
        ("Lake Como and lake  como!", "Lake Como", ["Lake Como", "lake  como"]),
    ],
)
def test_what_is_marked(text: str, gold: str, expected: list[str]) -> None:
    assert marked(text, [gold])[1::2] == expected


def test_control_characters_lose_their_power() -> None:
    assert printable("a\x1b[31mb\tc\nd\x9b") == "a␛[31mb\tc\nd�"
    assert printable("a\u202eb\u2069") == "a\ufffdb\ufffd", (
        "nor do they turn the direction of what follows"
    )
