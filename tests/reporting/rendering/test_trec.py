"""TREC runs of an index with chunks: one line for a document, at the place of its best chunk."""

from __future__ import annotations

from typing import Any

import pytest

from tspo_cli.errors import InvalidInputError
from tspo_cli.reporting.inspect.trec import trec_qrels, trec_run


def group(name: str, searches: list[list[str]], gold: list[str] | None = None) -> dict[str, Any]:
    turns = [{"passages": [{"id": passage} for passage in found]} for found in searches]
    return {
        "group": ["set", name, 0],
        "supporting_ids": gold or [],
        "trajectories": [{"turns": [*turns, {}]}],
    }


def documents(groups: list[dict[str, Any]]) -> list[str]:
    return [line.split()[2] for line in trec_run(groups, "tag")]


@pytest.mark.parametrize(
    ("searches", "gold", "expected"),
    [
        ([["b#2", "a#0", "b#0"]], ["a"], ["b", "a"]),
        ([["a#1"], ["c", "a#0"]], ["c"], ["a", "c"]),
        ([["a", "a#10", "a#1"]], [], ["a"]),
        # The marks of an id that are no number of a chunk.
        ([["C#", "x#y", "#4a", "u#1#2"]], ["C#"], ["C#", "x#y", "#4a", "u#1"]),
        # Gold passages are chunks, or the corpus itself has such names.
        ([["a#1", "a#0", "a#1"]], ["a#0"], ["a#1", "a#0"]),
    ],
)
def test_a_document_is_listed_once_at_its_best_chunk(
    searches: list[list[str]], gold: list[str], expected: list[str]
) -> None:
    assert documents([group("q", searches, gold)]) == expected


def test_the_names_of_gold_passages_speak_for_all_questions() -> None:
    groups = [group("q1", [["a#1", "a#2"]]), group("q2", [["b#1"]], ["b#1"])]
    assert documents(groups) == ["a#1", "a#2", "b#1"]


def test_a_run_of_chunks_finds_what_the_qrels_name() -> None:
    groups = [group("q", [["d#4", "e#0"], ["e#1", "f"]], ["e", "f"])]
    assert trec_run(groups, "a tag") == [
        "q Q0 d 1 3 a_tag", "q Q0 e 2 2 a_tag", "q Q0 f 3 1 a_tag",
    ]  # fmt: skip
    assert trec_qrels(groups) == ["q 0 e 1", "q 0 f 1"]


def test_what_no_file_can_hold_is_named() -> None:
    """Records of a foreign run may have it, and so may the name of its folder."""
    with pytest.raises(InvalidInputError, match="half of a surrogate pair"):
        trec_run([group("q", [["\ud800"]])], "tag")
    with pytest.raises(InvalidInputError, match="half of a surrogate pair"):
        trec_qrels([group("\udfff", [], ["a"])])
    assert trec_run([group("q", [["a"]])], "run \udcff") == ["q Q0 a 1 1 run_\ufffd"]
