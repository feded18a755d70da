"""Scores of items and their means."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tspo_cli.data.question import Question
from tspo_cli.evaluation.metrics import answer_in_retrieved, gold_recall, item_record, summarize
from tspo_cli.retrieval.types import Hit
from tspo_cli.rollout.trajectory import GroupId, Trajectory, Turn


def question(
    answers: Sequence[str] = ("Paris",), supporting: Sequence[str] = (), kind: str = "none"
) -> Question:
    return Question("q1", "where?", tuple(answers), "test", tuple(supporting), kind, "bridge")


def hit(identifier: str, text: str) -> Hit:
    return Hit(identifier, f'"Title"\n{text}', 1.0)


def trajectory(
    asked: Question, answer: str | None, *hits: Hit, error: str | None = None
) -> Trajectory:
    search = Turn(
        (5,),
        (-1.0,),
        "stop",
        "search",
        "<search> x </search>",
        query="x",
        hits=hits,
        search_error=error,
    )
    last = Turn((6, 7), (-1.0, -2.0), "stop", "answer" if answer else "invalid", "", answer=answer)
    return Trajectory(GroupId("test", asked.id, 0), 0, asked, (1, 2), (search, last))


def test_recall_counts_every_gold_passage() -> None:
    asked = question(supporting=("a", "b"), kind="full")
    assert gold_recall(asked, [hit("a", ""), hit("c", ""), hit("a", "")]) == 0.5
    assert gold_recall(question(), [hit("a", "")]) is None


def test_an_answer_is_found_in_whole_words_of_title_or_text() -> None:
    assert answer_in_retrieved(question(["Title"]), [hit("a", "x")]) == 1
    assert answer_in_retrieved(question(["par"]), [hit("a", "paris")]) == 0
    assert answer_in_retrieved(question(["yes"]), [hit("a", "yes")]) is None
    assert answer_in_retrieved(question(), []) == 0


def test_nothing_is_dropped_from_the_means() -> None:
    asked = question(supporting=("a",), kind="full")
    items = [
        item_record(trajectory(asked, "The Paris!", hit("a", "Paris")), None),
        item_record(trajectory(asked, None, hit("b", "")), None),
        item_record(trajectory(asked, None, error="server down"), None),
        item_record(trajectory(asked, "Paris France", hit("b", "")), None),
    ]
    scores = summarize(items, dataset="d", method="m", k=1)
    assert scores["n"] == 4
    assert scores["em"] == 0.25
    assert scores["f1"] == pytest.approx((1 + 2 / 3) / 4)
    assert scores["gold_recall"] == scores["answer_in_retrieved"] == 0.25
    assert scores["failed"] == 1
    assert scores["no_answer_share"] == 0.5
    assert scores["invalid_share"] == 2 / 8
    assert scores["searches"] == 1
    assert scores["by_type"] == {"bridge": {"n": 4, "em": 0.25, "f1": scores["f1"]}}


def test_partial_gold_lists_count_only_where_no_list_is_complete() -> None:
    full, part = (
        question(supporting=("a",), kind="full"),
        question(supporting=("a",), kind="positive"),
    )
    found, missed = hit("a", ""), hit("b", "")
    mixed = [
        item_record(trajectory(full, None, missed), None),
        item_record(trajectory(part, None, found), None),
    ]
    assert summarize(mixed, dataset="d", method="m", k=1)["gold_recall"] == 0
    assert summarize(mixed[1:], dataset="d", method="m", k=1)["gold_recall"] == 1
