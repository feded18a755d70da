"""The sentences of an evaluation agree with their numbers."""

from __future__ import annotations

from typing import Any

import pytest

from tspo_cli.evaluation.answering.workers import idle_processes
from tspo_cli.evaluation.summary import (
    calls_in_thoughts,
    cut_questions,
    failed_searches,
    only_thoughts,
    unanswered_questions,
)

TURN = {"search_error": "full", "call_in_thought": True}
ITEM: Any = {"failed": True, "no_answer": "thought", "trajectory": {"turns": [TURN]}}
LOST: Any = ITEM | {"unanswered": "502"}


@pytest.mark.parametrize(
    ("sentence", "item", "one", "several"),
    [
        (failed_searches, ITEM, "question counts as wrong because one of its ", "questions count "),
        (unanswered_questions, LOST, "question counts as wrong because the ", "questions count "),
        (calls_in_thoughts, ITEM, "turn calls a function ", "turns call "),
        (only_thoughts, ITEM, "question has no answer ", "questions have "),
    ],
)
def test_one_item_is_said_in_the_singular(sentence: Any, item: Any, one: str, several: str) -> None:
    assert sentence([item]).startswith(f"1 of 1 {one}")
    assert sentence([item, item]).startswith(f"2 of 2 {several}")
    assert ("asks it again" in sentence([item])) == ("asks them again" in sentence([item, item]))


def test_one_part_of_several_is_said_in_the_singular() -> None:
    shown = cut_questions({"cut_prompts": 1, "n": 3}) or ""
    assert shown.startswith("1 of 3 prompts shows only a part of its question, because it is ")
    idle = idle_processes(3, 2, 3) or ""
    assert "1 of 3 processes has nothing to do" in idle
