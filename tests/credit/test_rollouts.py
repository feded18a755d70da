"""From rollouts to groups, and what is logged about groups."""

from __future__ import annotations

import pytest

from tspo_cli.config.schema import CreditConfig
from tspo_cli.credit.assign import assign_credit
from tspo_cli.credit.diagnostics import false_positive_rate, group_metrics
from tspo_cli.credit.from_rollouts import group_from_trajectories
from tspo_cli.credit.group import CreditTrajectory, CreditTurn, Group
from tspo_cli.data.question import Question
from tspo_cli.errors import InvalidInputError
from tspo_cli.rollout.trajectory import GroupId, Trajectory, Turn

QUESTION = Question("q1", "Who?", ("Ada Lovelace",), "nq")


def rollout(*turns: Turn, draw: int = 0) -> Trajectory:
    return Trajectory(GroupId("nq", "q1", draw), 0, QUESTION, (1,), turns)


def turn(kind: str, **fields: str) -> Turn:
    return Turn((1,), (-0.1,), "stop", kind, **({"text": ""} | fields))  # type: ignore[arg-type]


def test_rollouts_become_a_group_in_which_only_searches_are_evidence() -> None:
    group = group_from_trajectories(
        [
            rollout(
                turn("invalid", feedback="Ada Lovelace is no action"),
                turn("search", query="who", feedback="Ada Lovelace"),
                turn("answer", answer="Bob", text="<answer>Bob</answer>"),
            )
        ]
    )
    credit = assign_credit(group, CreditConfig())
    assert credit.trajectories[0].first_occurrence == 2
    assert group.trajectories[0].answer == "Bob"
    assert group.trajectories[0].turns[2].generated == "<answer>Bob</answer>"


def test_rollouts_of_two_groups_are_refused() -> None:
    answer = turn("answer", answer="x")
    with pytest.raises(InvalidInputError, match="one group id"):
        group_from_trajectories([rollout(answer), rollout(answer, draw=1)])
    with pytest.raises(InvalidInputError, match="at least one trajectory"):
        group_from_trajectories([])
    with pytest.raises(InvalidInputError, match="without turns"):
        group_from_trajectories([rollout()])


def group(gold: str, *rows: tuple[str, bool]) -> Group:
    trajectories = [
        CreditTrajectory(
            gold if correct else "x", (CreditTurn("q", feedback), CreditTurn(None, ""))
        )
        for feedback, correct in rows
    ]
    return Group("Who?", (gold,), tuple(trajectories))


def test_shares_of_groups_and_trajectories() -> None:
    groups = [
        group("Ada", ("Ada", True), ("none", True)),
        group("Bob", ("Bob", True), ("Bob", False)),
        group("Cid", ("Cid", False), ("none", False)),
        group("Dan", ("none", False), ("none", False)),
    ]
    metrics = group_metrics([assign_credit(one, CreditConfig()) for one in groups])
    for name in ("all_correct", "mixed", "all_wrong_near_miss", "all_miss"):
        assert metrics[name] == 0.25
    assert metrics["zero_signal_grpo"] == 0.75
    assert metrics["recovered_by_folr"] == 0.25
    assert metrics["success"] == pytest.approx(3 / 8)
    assert metrics["near_miss"] == pytest.approx(2 / 8)
    assert metrics["nonzero_advantage"] == 0.5
    assert metrics["first_occurrence_1"] == metrics["first_occurrence_mean"] == 1
    assert group_metrics([]) == {}


def test_false_positives_are_answers_of_other_questions() -> None:
    groups = [group("Ada", ("Ada and Bob", False)), group("Bob", ("Bob", False))]
    assert false_positive_rate(groups, CreditConfig()) == 0.5
    assert false_positive_rate(groups[:1], CreditConfig()) == 0
