"""What holds for every group and every choice of options."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tspo_cli.config.schema import CreditConfig
from tspo_cli.credit.assign import assign_credit
from tspo_cli.credit.folr import judge, turn_rewards
from tspo_cli.credit.group import CreditTrajectory, CreditTurn, Group, GroupCredit

GOLD = "Ada Lovelace"
EVIDENCE = f"It was {GOLD}."


def group_of(
    outcomes: st.SearchStrategy[bool], hits: st.SearchStrategy[bool]
) -> st.SearchStrategy[Group]:
    search = st.builds(lambda hit: CreditTurn("query", EVIDENCE if hit else "Nothing."), hits)
    trajectory = st.builds(
        lambda correct, searches: CreditTrajectory(
            GOLD if correct else None, (*searches, CreditTurn(None, ""))
        ),
        outcomes,
        st.lists(search, max_size=4),
    )
    return st.lists(trajectory, min_size=1, max_size=6).map(
        lambda rows: Group("Who?", (GOLD,), tuple(rows))
    )


groups = group_of(st.booleans(), st.booleans())
wrong_groups = group_of(st.just(False), st.booleans())
miss_groups = group_of(st.just(False), st.just(False))
configs = st.builds(
    CreditConfig,
    turn_reward=st.sampled_from(["prefix", "point", "point_to_go"]),
    gamma=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    alpha=st.sampled_from([0.0, 0.1, 0.3, 0.5, 1.0]),
    success_turns=st.sampled_from(["all_ones", "final_only", "hit_plus_final"]),
    gate=st.sampled_from(["all_wrong", "any_near_miss", "always", "never"]),
    norm=st.sampled_from(["pooled_turns", "per_turn_index", "trajectory"]),
    scale=st.sampled_from(["std", "none"]),
    mixed_reward=st.sampled_from(["outcome", "outcome_plus_alpha"]),
)


def advantages(credit: GroupCredit) -> list[tuple[float, ...]]:
    return [trajectory.advantages for trajectory in credit.trajectories]


@given(groups, configs)
def test_one_finite_reward_and_advantage_per_turn(group: Group, config: CreditConfig) -> None:
    credit = assign_credit(group, config)
    for trajectory, one in zip(group.trajectories, credit.trajectories, strict=True):
        assert len(trajectory.turns) == len(one.turn_rewards) == len(one.advantages)
        assert all(map(math.isfinite, (*one.turn_rewards, *one.advantages)))


@given(groups, configs)
def test_advantages_of_each_population_sum_to_zero(group: Group, config: CreditConfig) -> None:
    credit = assign_credit(group, config)
    rows = advantages(credit)
    if credit.level == "turn" and config.norm == "per_turn_index":
        populations = [
            [row[index] for row in rows if len(row) > index] for index in range(max(map(len, rows)))
        ]
    elif credit.level == "turn":
        populations = [[value for row in rows for value in row]]
    else:
        assert all(len(set(row)) == 1 for row in rows)
        populations = [[row[0] for row in rows]]
    for population in populations:
        assert sum(population) == pytest.approx(0, abs=1e-9)
    assert (
        sorted(map(len, populations)) == sorted(map(len, credit.populations))
        or credit.level == "none"
    )


@given(groups, configs, st.randoms(use_true_random=False))
def test_the_order_of_trajectories_does_not_matter(
    group: Group, config: CreditConfig, random: object
) -> None:
    order = list(range(len(group.trajectories)))
    random.shuffle(order)  # type: ignore[attr-defined]
    straight = assign_credit(group, config)
    shuffled = assign_credit(
        replace(group, trajectories=tuple(group.trajectories[i] for i in order)), config
    )
    assert shuffled.group_class == straight.group_class
    for place, index in enumerate(order):
        one, other = shuffled.trajectories[place], straight.trajectories[index]
        assert one.turn_rewards == other.turn_rewards
        assert one.advantages == pytest.approx(other.advantages, abs=1e-9)


@given(groups, configs)
def test_gate_never_is_grpo_bit_for_bit(group: Group, config: CreditConfig) -> None:
    never = assign_credit(
        group, config.model_copy(update={"gate": "never", "mixed_reward": "outcome"})
    )
    grpo = assign_credit(group, config.model_copy(update={"algorithm": "grpo"}))
    assert advantages(never) == advantages(grpo)


@given(groups)
def test_by_default_only_all_wrong_groups_with_a_near_miss_differ_from_grpo(group: Group) -> None:
    tspo, grpo = (
        assign_credit(group, CreditConfig()),
        assign_credit(group, CreditConfig(algorithm="grpo")),
    )
    if tspo.group_class == "all-wrong with near-miss":
        assert tspo.level == "turn"
        assert grpo.level == "none"
    else:
        assert advantages(tspo) == advantages(grpo)


@given(miss_groups, configs)
def test_all_miss_groups_are_exactly_zero(group: Group, config: CreditConfig) -> None:
    credit = assign_credit(group, config)
    assert credit.group_class == "all-miss"
    assert credit.level == "none"
    assert all(value == 0.0 for row in advantages(credit) for value in row)


@given(wrong_groups, configs, st.sampled_from([0.1, 0.3, 0.8, 1.0]))
def test_alpha_cancels_in_all_wrong_groups_when_divided_by_the_deviation(
    group: Group, config: CreditConfig, alpha: float
) -> None:
    base = config.model_copy(update={"scale": "std", "gate": "all_wrong", "alpha": 0.5, "eps": 0.0})
    first = advantages(assign_credit(group, base))
    second = advantages(assign_credit(group, base.model_copy(update={"alpha": alpha})))
    for row, other in zip(first, second, strict=True):
        assert row == pytest.approx(other, abs=1e-9)


@given(groups)
def test_first_occurrence_is_the_least_turn_with_the_answer(group: Group) -> None:
    for trajectory, one in zip(
        group.trajectories, assign_credit(group, CreditConfig()).trajectories, strict=True
    ):
        hits = [
            index
            for index, turn in enumerate(trajectory.turns, start=1)
            if turn.feedback == EVIDENCE
        ]
        assert one.first_occurrence == min(hits, default=None)


@given(groups, configs)
def test_prefix_is_the_undiscounted_point_reward_to_go(group: Group, config: CreditConfig) -> None:
    prefix = config.model_copy(update={"turn_reward": "prefix"})
    to_go = config.model_copy(update={"turn_reward": "point_to_go", "gamma": 1.0})
    for trajectory in group.trajectories:
        one = judge(trajectory, group.golden_answers, config)
        if one.trajectory_class != "success" or config.success_turns == "all_ones":
            assert turn_rewards(one, prefix) == turn_rewards(one, to_go)


@settings(max_examples=50)
@given(wrong_groups)
def test_searches_up_to_the_hit_are_never_worse_than_what_follows(group: Group) -> None:
    for one in assign_credit(group, CreditConfig()).trajectories:
        if one.first_occurrence is not None:
            before, after = (
                one.advantages[: one.first_occurrence],
                one.advantages[one.first_occurrence :],
            )
            assert min(before) > max(after)
