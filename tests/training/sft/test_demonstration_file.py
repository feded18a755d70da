"""Files of recorded demonstrations: what is read, and one line on what no rollout could have."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tspo_cli.errors import InvalidInputError
from tspo_cli.training.sft.demonstration_file import read_demonstrations

SEARCH = {
    "text": "<think> Who built it? </think> <search> lighthouse builder </search>",
    "passages": [{"id": "7", "title": "Old Light", "text": "Ada Brook built the Old Light."}],
}
ANSWER = {"text": "<think> Found. </think> <answer> Ada Brook </answer>"}
QUESTION = "Who built the Old Light?"


def _write(path: Path, *records: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), "utf-8")
    return path


def test_a_good_file_keeps_order_turns_and_both_forms_of_passages(tmp_path: Path) -> None:
    plain = {**SEARCH, "passages": [{"contents": '"Pier"\nBuilt in 1910.'}]}
    path = _write(
        tmp_path / "demos.jsonl",
        {"question": QUESTION, "turns": [SEARCH, ANSWER]},
        {"question": "When?", "turns": [plain, ANSWER], "golden_answers": ["1910"]},
    )
    first, second = read_demonstrations(path)
    assert first.question == QUESTION
    assert [turn.text for turn in first.turns] == [SEARCH["text"], ANSWER["text"]]
    titled = first.turns[0].hits[0].contents
    assert "Old Light" in titled.splitlines()[0]
    assert titled.splitlines()[1] == "Ada Brook built the Old Light."
    assert second.turns[0].hits[0].contents == '"Pier"\nBuilt in 1910.'
    assert not first.turns[1].hits


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"question": QUESTION, "turns": [{"text": "Ada Brook."}]}, "turn 1 to hold <search>"),
        ({"question": QUESTION, "turns": [SEARCH, {"text": "<answer> Ada"}]}, "turn 2 to hold"),
        (
            {"question": QUESTION, "turns": [{"text": "word " * 40 + "<serch> Ada </search>"}]},
            "<serch> Ada </search>';",
        ),
        (
            {"question": QUESTION, "turns": [{"text": SEARCH["text"]}, ANSWER]},
            "search of turn 1 with the passages",
        ),
        ({"question": QUESTION, "turns": [ANSWER, SEARCH, ANSWER]}, "more turns after turn 1"),
        ({"question": QUESTION, "turns": [SEARCH]}, "the last turn to answer"),
        (
            {"question": QUESTION, "turns": [{"text": ANSWER["text"] + " Bye."}]},
            "turn 1 to end with its action",
        ),
        ({"question": QUESTION, "turns": [ANSWER], "weight": 2}, "unknown weight"),
        ({"question": QUESTION, "turns": [{**ANSWER, "role": "user"}]}, "unknown role"),
        (
            {"question": QUESTION, "turns": [{**SEARCH, "passages": [{"url": "x"}]}, ANSWER]},
            "unknown url",
        ),
        ({"question": QUESTION, "turns": []}, '"turns" (a list)'),
        ({"question": "", "turns": [ANSWER]}, '"question"'),
        ({"question": "  ", "turns": [ANSWER]}, '"question"'),
    ],
)
def test_what_no_rollout_has_is_one_line_with_its_place(
    tmp_path: Path, record: dict[str, Any], expected: str
) -> None:
    good = {"question": QUESTION, "turns": [SEARCH, ANSWER]}
    path = _write(tmp_path / "demos.jsonl", good, record)
    with pytest.raises(InvalidInputError) as caught:
        read_demonstrations(path)
    message = str(caught.value)
    assert f"{path}:2" in message
    assert expected in message
    assert "\n" not in message


def test_an_empty_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "demos.jsonl"
    path.write_text("", "utf-8")
    with pytest.raises(InvalidInputError, match=r"demos\.jsonl.*empty"):
        read_demonstrations(path)
