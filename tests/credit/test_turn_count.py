"""Advantages that depend on the number of turns, and the baseline that removes it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from tests.credit.test_algorithms_golden import advantages, attempt, check, group
from tests.credit.test_algorithms_laws import groups
from tspo_cli.config.load_config import load_config
from tspo_cli.config.rules import rule_problems
from tspo_cli.config.schema import CreditConfig
from tspo_cli.credit.assign import assign_credit
from tspo_cli.credit.group import Group, GroupCredit, TrajectoryCredit
from tspo_cli.credit.laboratory.turn_count import TurnCountEffect, TurnCounts
from tspo_cli.credit.turn_baseline import without_turn_count


def credit(*rollouts: tuple[float, tuple[float, ...]]) -> GroupCredit:
    """Rollouts of an outcome and its advantages by turn."""
    judged = tuple(
        TrajectoryCredit(outcome, "miss", None, (0.0,) * len(row), row) for outcome, row in rollouts
    )
    return GroupCredit("mixed", "x", "turn", judged)


def effect(*groups_of_arm: GroupCredit) -> TurnCountEffect | None:
    counts = TurnCounts()
    for one in groups_of_arm:
        counts.add([one])
    return next(iter(counts.effects()), None)


def test_the_slope_of_one_group() -> None:
    """Mean advantages 1, 2, 3 at 1, 2, 3 turns: slope 1, correlation 1; the other outcome has one
    rollout and says nothing. Of 6 orders 2 are as extreme: p is near 1/3.
    """
    found = effect(credit((0, (1.0,)), (0, (2.0, 2.0)), (0, (3.0, 2.0, 4.0)), (1, (9.0,) * 4)))
    assert found is not None
    assert (found.slope, found.correlation, found.rollouts) == (
        pytest.approx(1),
        pytest.approx(1),
        3,
    )
    assert found.p_value == pytest.approx(1 / 3, abs=0.05)


def test_a_payment_for_turns_is_found_in_many_groups() -> None:
    paid = [credit((0, (0.1,)), (0, (0.2, 0.2)), (1, (1.0,)), (1, (1.1, 1.1)))] * 12
    found = effect(*paid)
    assert found is not None
    assert found.slope == pytest.approx(0.1)
    assert found.p_value == 0.001
    even = [credit((0, (0.1,)), (0, (0.2, 0.2))), credit((0, (0.2,)), (0, (0.1, 0.1)))] * 12
    unpaid = effect(*even)
    assert unpaid is not None
    assert unpaid.slope == pytest.approx(0)
    assert unpaid.p_value > 0.9


def test_arms_that_judge_differently_are_compared_within_the_outcomes_of_both() -> None:
    first = credit((0, (0.0,)), (0, (0.0, 0.0)), (0, (0.0,)), (0, (0.0, 0.0)))
    second = credit((0, (-1.0,)), (1, (1.0, 1.0)), (0, (-1.0,)), (1, (1.0, 1.0)))
    counts = TurnCounts()
    counts.add([first, second])
    assert counts.effects() == [], "what differs in turns differs in the outcome too"


def test_a_difference_of_outcomes_is_no_payment_for_turns() -> None:
    """Right rollouts are long: advantage and turns go together, but not at equal outcomes."""
    found = effect(*[credit((0, (-1.0,)), (0, (-1.0, -1.0)), (1, (1.0,) * 3), (1, (1.0,) * 4))] * 9)
    assert found is not None
    assert (found.slope, found.correlation, found.p_value) == (0, 0, 1)


def test_where_nothing_can_be_compared_there_is_no_effect() -> None:
    assert effect() is None
    assert effect(credit((0, (1.0, 2.0)), (0, (3.0, 4.0)), (1, (1.0,)))) is None


def test_the_baseline_by_hand() -> None:
    """Outcome 0: m = 1, 3 at one turn, 5 at two turns; mean 3. One turn: +3 - 2; two: 3 - 5. The
    rollout of outcome 1 is alone.
    """
    rows = ((1.0,), (3.0,), (4.0, 6.0), (7.0, 8.0))
    found = without_turn_count(rows, [0, 0, 0, 1])
    assert found == ((2.0,), (4.0,), (2.0, 4.0), (7.0, 8.0))


def test_tspo_with_the_baseline() -> None:
    """Rewards 0.5, 0.5, 0, 0 and 0, 0, centred. Means 1/12 and -1/6, together -1/24: every turn of
    the first changes by -1/8, of the second by 1/8.
    """
    wrong = group(attempt(4, 2, 0), attempt(2, None, 0))
    plain = advantages(wrong, "tspo", scale="none")
    check(plain, [[1 / 3, 1 / 3, -1 / 6, -1 / 6], [-1 / 6, -1 / 6]])
    found = advantages(wrong, "tspo", scale="none", turn_count_baseline=True)
    check(found, [[0.25 - 1 / 24, 0.25 - 1 / 24, -0.25 - 1 / 24, -0.25 - 1 / 24], [-1 / 24] * 2])


@settings(max_examples=20)
@given(groups)
def test_grpo_is_never_paid_for_turns(group: Group) -> None:
    config = CreditConfig(algorithm="grpo")
    found = effect(assign_credit(group, config))
    assert found is None or (found.slope, found.p_value) == (0, 1)
    based = assign_credit(group, config.model_copy(update={"turn_count_baseline": True}))
    assert [one.advantages for one in based.trajectories] == [
        one.advantages for one in assign_credit(group, config).trajectories
    ]


@pytest.mark.parametrize("name", ["igpo", "tspo", "gigpo", "a2tgpo"])
@settings(max_examples=20)
@given(group=groups)
def test_the_baseline_removes_the_payment(name: str, group: Group) -> None:
    config = CreditConfig(algorithm=name, turn_count_baseline=True, gamma=0.9, gate="always")
    found = effect(assign_credit(group, config))
    assert found is None or found.slope == pytest.approx(0, abs=1e-9)


def test_it_is_refused_where_a_critic_makes_the_advantages() -> None:
    def said(algorithm: str) -> str:
        settings = [f"credit.algorithm={algorithm}", "credit.turn_count_baseline=true"]
        return "\n".join(rule_problems(load_config([], settings)))

    assert "credit.turn_count_baseline: not for ppo" in said("ppo")
    assert "turn_count_baseline" not in said("gigpo")
