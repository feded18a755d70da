"""Groups as JSON files: the fixed form, and what is wrong with others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tspo_cli.config.schema import CreditConfig
from tspo_cli.credit.assign import assign_credit
from tspo_cli.credit.group import CreditTurn
from tspo_cli.credit.laboratory.explain import golds_left_out, sentences, turn_rows
from tspo_cli.credit.laboratory.group_file import read_group
from tspo_cli.errors import InvalidInputError, MissingResourceError

SEARCH = {"query": "who", "feedback": "Ada Lovelace"}


def record(**changes: Any) -> dict[str, Any]:
    trajectory = {"answer": "Ada", "turns": [SEARCH, {}]}
    return {
        "question": "Who?",
        "golden_answers": ["Ada Lovelace"],
        "trajectories": [trajectory],
    } | changes


def write(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def test_the_fixed_form(tmp_path: Path) -> None:
    trajectories = [
        {"answer": None, "turns": [SEARCH]},
        {"turns": [SEARCH, {"query": None, "feedback": ""}]},
    ]
    group = read_group(
        write(
            tmp_path / "g.json", record(trajectories=trajectories, source="other keys are kept out")
        )
    )
    assert group.golden_answers == ("Ada Lovelace",)
    assert [trajectory.answer for trajectory in group.trajectories] == [None, None]
    assert [len(trajectory.turns) for trajectory in group.trajectories] == [1, 2]
    assert group.trajectories[1].turns[1] == CreditTurn(None, "")


def test_what_the_model_wrote_is_its_text_or_else_what_is_known(tmp_path: Path) -> None:
    turns = [
        SEARCH,
        {"query": "b", "feedback": "", "text": "<think>Ada</think><search>b</search>"},
        {},
    ]
    group = read_group(
        write(tmp_path / "g.json", record(trajectories=[{"answer": "Ada", "turns": turns}]))
    )
    assert [turn.generated for turn in group.trajectories[0].turns] == [
        "<search>who</search>",
        "<think>Ada</think><search>b</search>",
        "<answer>Ada</answer>",
    ]
    config = CreditConfig(outcome="em_format")
    assert assign_credit(group, config).trajectories[0].outcome == config.format_score, (
        "wrong, in valid form"
    )


def in_turn(turn: Any) -> dict[str, Any]:
    return record(trajectories=[{"turns": [{}]}, {"answer": "x", "turns": [SEARCH, turn, {}]}])


def believed(values: list[float]) -> dict[str, Any]:
    return record(
        trajectories=[{"answer": "x", "turns": [SEARCH, {}], "gold_logprobs": values}],
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "expected an object, got a list without entries"),
        (record(question=""), '"question" to be a string'),
        (record(question=3), '"question" to be a string'),
        (record(golden_answers=[]), '"golden_answers" to be a list with entries'),
        (record(golden_answers="Ada"), "\"golden_answers\" to be a list with entries, got 'Ada'"),
        (record(golden_answers=["Ada", 3]), "got 3"),
        (record(golden_answers=["Ada", " "]), "strings with text"),
        (record(trajectories=[]), '"trajectories" to be a list'),
        (
            {"question": "Who?", "golden_answers": ["Ada"]},
            '"trajectories" to be a list with entries, got nothing',
        ),
        (
            {"question": "Who?", "golden_answer": ["Ada"]},
            'expected "golden_answers", got "golden_answer"',
        ),
        (record(trajectories=[{"turns": [{}]}, "x"]), "trajectory 2: expected an object"),
        (
            record(trajectories=[{"answer": "x", "turns": []}]),
            'trajectory 1: expected "turns" to be a list',
        ),
        (record(trajectories=[{"answer": "x"}]), 'trajectory 1: expected "turns"'),
        (
            record(trajectories=[{"answer": 7, "turns": [{}]}]),
            'trajectory 1: expected "answer" to be a string or null',
        ),
        (
            record(trajectories=[{"answer": "x", "turns": [SEARCH]}]),
            "trajectory 1, turn 1: expected the answering turn",
        ),
        (in_turn(None), "trajectory 2, turn 2: expected an object, got nothing"),
        (
            in_turn({"query": ["a"], "feedback": "b"}),
            'trajectory 2, turn 2: expected "query" to be a string',
        ),
        (
            in_turn({"query": "a", "feedback": {"b": 1}}),
            'trajectory 2, turn 2: expected "feedback" to be a string',
        ),
        (
            in_turn({"query": "a", "feedbak": "b"}),
            'trajectory 2, turn 2: expected "feedback", got "feedbak"',
        ),
        (
            in_turn({"query": "a"} | {f"note {number}": 1 for number in range(3000)} | {"tex": ""}),
            'trajectory 2, turn 2: expected "text", got "tex"',
        ),
        (in_turn({"feedback": "b"}), 'trajectory 2, turn 2: expected "query" beside "feedback"'),
        (in_turn({"query": "a", "tokens": 10**400}), 'turn 2: expected "tokens" to be an integer'),
        (believed([-(10**400), -1]), 'trajectory 1: expected "gold_logprobs" to be 2 log-probab'),
        (believed([-1e308, 1e308]), 'trajectory 1: expected "gold_logprobs"'),
        (believed([0, 1000]), 'trajectory 1: expected "gold_logprobs"'),
    ],
)
def test_malformed_files_name_the_place_in_one_line(
    tmp_path: Path, value: Any, message: str
) -> None:
    path = write(tmp_path / "g.json", value)
    with pytest.raises(InvalidInputError) as caught:
        read_group(path)
    text = str(caught.value)
    assert text.startswith(str(path))
    assert message in text
    assert "\n" not in text


def test_missing_file_and_directory(tmp_path: Path) -> None:
    with pytest.raises(MissingResourceError):
        read_group(tmp_path / "none.json")
    with pytest.raises(InvalidInputError, match="got a directory"):
        read_group(tmp_path)


def test_explanation_names_class_gate_mean_and_deviation(tmp_path: Path) -> None:
    group = read_group(write(tmp_path / "g.json", record()))
    config = CreditConfig()
    credit = assign_credit(group, config)
    text = "\n".join(sentences(credit, config))
    for part in (
        "all-wrong with near-miss",
        "gate all_wrong is open",
        "mean 0.2500",
        "deviation 0.3536 over 2",
    ):
        assert part.lower() in text.lower()
    rows = turn_rows(group, credit)
    assert [row.gold for row in rows] == ["first found here", "found before"]
    assert [row.action for row in rows] == ["search: who", "answer: Ada"]


@pytest.mark.parametrize("gold", ["yes", "No.", "7"])
def test_explanation_names_golds_that_prove_nothing(tmp_path: Path, gold: str) -> None:
    group = read_group(write(tmp_path / "g.json", record(golden_answers=["Bob", gold])))
    (sentence,) = golds_left_out(group, CreditConfig())
    assert sentence.startswith(f"Not looked for in the feedback: {gold}. ")
    for other in ("as_is", "half"):
        assert golds_left_out(group, CreditConfig(degenerate=other)) == []
    plain = read_group(write(tmp_path / "p.json", record(golden_answers=["Bob", "42"])))
    assert golds_left_out(plain, CreditConfig()) == []


def test_explanation_of_a_group_without_signal(tmp_path: Path) -> None:
    group = read_group(write(tmp_path / "g.json", record(golden_answers=["Bob"])))
    config = CreditConfig(norm="per_turn_index", gate="always")
    assert "every advantage is 0" in sentences(assign_credit(group, config), config)[-1]


def test_a_byte_order_mark_is_left_out(tmp_path: Path) -> None:
    value = {"question": "q", "golden_answers": ["a"], "trajectories": [{"turns": [{}]}]}
    path = tmp_path / "group.json"
    path.write_text(json.dumps(value), "utf-8-sig")
    assert read_group(path).question == "q"
