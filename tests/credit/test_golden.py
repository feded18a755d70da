"""The golden vectors of the reconstruction, and the options U3 to U13 on groups small enough to do
by hand.
"""

from __future__ import annotations

from typing import Any

import pytest

from tspo_cli.config.schema import CreditConfig
from tspo_cli.credit.assign import assign_credit
from tspo_cli.credit.group import CreditTrajectory, CreditTurn, Group, GroupCredit
from tspo_cli.errors import InvalidInputError

Shape = tuple[int, int | None, int]
GOLD = "Ada Lovelace"


def make_group(shapes: list[Shape], gold: str = GOLD) -> Group:
    """A group from (turns K, first occurrence t*, outcome y); the last turn answers."""

    def trajectory(turns: int, first: int | None, outcome: int) -> CreditTrajectory:
        searches = [
            CreditTurn(f"query {turn}", f"It was {gold}." if turn == first else "Nothing of use.")
            for turn in range(1, turns + 1)
        ]
        last = searches[-1] if first == turns else CreditTurn(None, "")
        return CreditTrajectory(gold if outcome else "Nobody", (*searches[:-1], last))

    return Group("Who?", (gold,), tuple(trajectory(*shape) for shape in shapes))


def credit(shapes: list[Shape], gold: str = GOLD, **options: Any) -> GroupCredit:
    return assign_credit(make_group(shapes, gold), CreditConfig(**options))


def rewards(shapes: list[Shape], gold: str = GOLD, **options: Any) -> list[tuple[float, ...]]:
    return [one.turn_rewards for one in credit(shapes, gold, **options).trajectories]


def assert_advantages(found: GroupCredit, expected: list[list[float]]) -> None:
    assert [len(trajectory.advantages) for trajectory in found.trajectories] == [
        len(row) for row in expected
    ]
    for one, row in zip(found.trajectories, expected, strict=True):
        assert one.advantages == pytest.approx(row, abs=5.1e-4)


ALL_WRONG: list[Shape] = [(4, 2, 0), (3, 1, 0), (4, None, 0), (2, None, 0), (4, None, 0)]
MIXED: list[Shape] = [(3, 2, 1), (4, 2, 0), (3, None, 0), (2, 1, 1), (4, None, 0)]


@pytest.mark.parametrize(
    ("shapes", "options", "expected"),
    [
        pytest.param(
            ALL_WRONG,
            {},
            [
                [2.096, 2.096, -0.449, -0.449],
                [2.096, -0.449, -0.449],
                [-0.449] * 4,
                [-0.449] * 2,
                [-0.449] * 4,
            ],
            id="all-wrong prefix pooled",
        ),
        pytest.param(
            ALL_WRONG,
            {"turn_reward": "point"},
            [
                [-0.354, 2.657, -0.354, -0.354],
                [2.657, -0.354, -0.354],
                [-0.354] * 4,
                [-0.354] * 2,
                [-0.354] * 4,
            ],
            id="all-wrong point pooled",
        ),
        pytest.param(
            ALL_WRONG,
            {"norm": "per_turn_index"},
            [
                [1.095, 1.789, 0, 0],
                [1.095, -0.447, 0],
                [-0.730, -0.447, 0, 0],
                [-0.730, -0.447],
                [-0.730, -0.447, 0, 0],
            ],
            id="all-wrong prefix per turn",
        ),
        pytest.param(
            ALL_WRONG,
            {"norm": "trajectory"},
            [[1.095] * 4, [1.095] * 3, [-0.730] * 4, [-0.730] * 2, [-0.730] * 4],
            id="all-wrong trajectory",
        ),
        pytest.param(
            MIXED,
            {},
            [[1.095] * 3, [-0.730] * 4, [-0.730] * 3, [1.095] * 2, [-0.730] * 4],
            id="mixed gate all_wrong",
        ),
        pytest.param(
            MIXED,
            {"gate": "always"},
            [[1.343] * 3, [0.269, 0.269, -0.806, -0.806], [-0.806] * 3, [1.343] * 2, [-0.806] * 4],
            id="mixed gate always pooled",
        ),
        pytest.param(
            MIXED,
            {"gate": "always", "norm": "trajectory"},
            [[1] * 3, [0] * 4, [-1] * 3, [1] * 2, [-1] * 4],
            id="mixed gate always trajectory",
        ),
    ],
)
def test_golden_vectors(
    shapes: list[Shape], options: dict[str, Any], expected: list[list[float]]
) -> None:
    assert_advantages(credit(shapes, **options), expected)


def test_classes_outcomes_and_first_occurrences() -> None:
    found = credit(MIXED)
    assert found.group_class == "mixed"
    assert found.level == "trajectory"
    assert [trajectory.trajectory_class for trajectory in found.trajectories] == [
        "success",
        "near-miss",
        "miss",
        "success",
        "miss",
    ]
    assert [trajectory.outcome for trajectory in found.trajectories] == [1, 0, 0, 1, 0]
    first = [trajectory.first_occurrence for trajectory in found.trajectories]
    assert first == [2, 2, None, 1, None]


@pytest.mark.parametrize(
    ("shapes", "name"),
    [
        ([(2, 1, 1), (3, None, 1)], "all-correct"),
        ([(2, 1, 1), (3, None, 0)], "mixed"),
        ([(2, 1, 0), (3, None, 0)], "all-wrong with near-miss"),
        ([(2, None, 0), (3, None, 0)], "all-miss"),
    ],
)
def test_group_classes(shapes: list[Shape], name: str) -> None:
    assert credit(shapes).group_class == name


@pytest.mark.parametrize(
    ("turn_reward", "expected"),
    [("prefix", (0.5, 0.5, 0, 0)), ("point", (0, 0.5, 0, 0)), ("point_to_go", (0.4, 0.5, 0, 0))],
)
def test_turn_rewards_of_a_near_miss(turn_reward: str, expected: tuple[float, ...]) -> None:
    assert rewards([(4, 2, 0)], turn_reward=turn_reward, gamma=0.8) == [pytest.approx(expected)]


@pytest.mark.parametrize(
    ("success_turns", "turn_reward", "expected"),
    [
        ("all_ones", "prefix", (1, 1, 1, 1)),
        ("all_ones", "point_to_go", (1, 1, 1, 1)),
        ("final_only", "prefix", (0, 0, 0, 1)),
        ("final_only", "point", (0, 0, 0, 1)),
        ("final_only", "point_to_go", (0.125, 0.25, 0.5, 1)),
        ("hit_plus_final", "prefix", (0.5, 0.5, 0, 1)),
        ("hit_plus_final", "point", (0, 0.5, 0, 1)),
        ("hit_plus_final", "point_to_go", (0.375, 0.75, 0.5, 1)),
    ],
)
def test_turn_rewards_of_a_success(
    success_turns: str, turn_reward: str, expected: tuple[float, ...]
) -> None:
    found = rewards([(4, 2, 1)], success_turns=success_turns, turn_reward=turn_reward, gamma=0.5)
    assert found == [pytest.approx(expected)]


def test_a_success_that_never_saw_the_answer_earns_its_outcome_alone() -> None:
    assert rewards([(3, None, 1)], success_turns="hit_plus_final") == [(0, 0, 1)]


@pytest.mark.parametrize(
    ("degenerate", "first", "reward"), [("no_hit", None, 0), ("as_is", 1, 0.5), ("half", 1, 0.25)]
)
@pytest.mark.parametrize("gold", ["yes", "No", "7"])
def test_degenerate_golds(gold: str, degenerate: str, first: int | None, reward: float) -> None:
    one = credit([(3, 1, 0)], gold, degenerate=degenerate).trajectories[0]
    assert one.first_occurrence == first
    assert one.turn_rewards == (reward, 0, 0)


def test_degenerate_golds_still_count_as_answers() -> None:
    assert credit([(2, None, 1)], "yes").trajectories[0].outcome == 1


@pytest.mark.parametrize("gate", ["all_wrong", "any_near_miss", "always", "never"])
@pytest.mark.parametrize("success_turns", ["all_ones", "final_only"])
def test_all_correct_groups_teach_nothing(gate: str, success_turns: str) -> None:
    found = credit([(2, 1, 1), (4, 2, 1)], gate=gate, success_turns=success_turns)
    assert found.level == "none"
    assert not any(any(trajectory.advantages) for trajectory in found.trajectories)


def test_all_correct_groups_reward_hits_when_told_to() -> None:
    found = credit([(2, 1, 1), (4, None, 1)], gate="always", success_turns="hit_plus_final")
    assert found.level == "turn"
    assert found.trajectories[0].advantages[0] > found.trajectories[1].advantages[0]


@pytest.mark.parametrize(
    ("gate", "level"),
    [
        ("all_wrong", "trajectory"),
        ("any_near_miss", "turn"),
        ("always", "turn"),
        ("never", "trajectory"),
    ],
)
def test_gates_on_a_mixed_group_with_a_near_miss(gate: str, level: str) -> None:
    assert credit(MIXED, gate=gate).level == level


def test_mixed_reward_with_alpha() -> None:
    found = credit(MIXED, mixed_reward="outcome_plus_alpha")
    assert_advantages(found, [[1] * 3, [0] * 4, [-1] * 3, [1] * 2, [-1] * 4])


def test_scale_none_only_centres() -> None:
    found = credit([(2, 1, 0), (2, None, 0)], scale="none")
    assert_advantages(found, [[0.375, -0.125], [-0.125, -0.125]])


@pytest.mark.parametrize("algorithm", ["tspo", "grpo"])
def test_one_trajectory_has_nothing_to_be_compared_with(algorithm: str) -> None:
    assert credit([(3, None, 1)], algorithm=algorithm).trajectories[0].advantages == (0, 0, 0)


def test_per_turn_index_gives_a_lone_turn_nothing() -> None:
    found = credit([(4, 3, 0), (2, 1, 0)], norm="per_turn_index")
    assert found.trajectories[0].advantages[2:] == (0, 0)


def test_identical_near_misses_still_teach_when_turns_are_pooled() -> None:
    found = credit([(2, 1, 0)] * 3)
    assert found.trajectories[0].advantages[0] > 0 > found.trajectories[0].advantages[1]
    assert credit([(2, 1, 0)] * 3, norm="trajectory").level == "none"


def test_grpo_shows_the_outcome_at_the_last_turn() -> None:
    assert rewards([(3, 1, 1), (2, 1, 0)], algorithm="grpo") == [(0, 0, 1), (0, 0)]


def test_unknown_algorithm_names_the_nearest() -> None:
    with pytest.raises(InvalidInputError, match="did you mean grpo"):
        credit(MIXED, algorithm="grop")
