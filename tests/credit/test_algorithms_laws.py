"""Laws that the algorithms keep for every group."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tspo_cli.config.load_config import load_config
from tspo_cli.config.schema import CreditConfig
from tspo_cli.config.tables import flatten, merge
from tspo_cli.credit.algorithms import ALGORITHMS
from tspo_cli.credit.assign import assign_batch, assign_credit
from tspo_cli.credit.folr import judge
from tspo_cli.credit.group import CreditTrajectory, CreditTurn, Group

GOLD = "Ada Lovelace"
SHIFTED_OUTCOME = Path(__file__).with_name("shifted_outcome.py")
ONE_PER_TRAJECTORY = ("grpo", "dr_grpo", "rloo", "dapo", "gspo", "retrieval_bonus")
WITHOUT_MODEL = tuple(name for name, one in ALGORITHMS.items() if "critic" not in one.needs)


def trajectories(
    outcome: st.SearchStrategy[bool], least: int = 0
) -> st.SearchStrategy[CreditTrajectory]:
    feedback = st.sampled_from([f"It was {GOLD}.", "Nothing of use.", "Nothing at all."])
    search = st.builds(CreditTurn, st.just("query"), feedback, st.just(""), st.integers(1, 9))

    def build(correct: bool, searches: list[CreditTurn], beliefs: list[float]) -> CreditTrajectory:
        turns = (*searches, CreditTurn(None, ""))
        return CreditTrajectory(GOLD if correct else "Nobody", turns, tuple(beliefs[: len(turns)]))

    beliefs = st.lists(st.sampled_from([-4.0, -3.0, -2.5, -1.0, -0.1]), min_size=5, max_size=5)
    return st.builds(build, outcome, st.lists(search, min_size=least, max_size=4), beliefs)


def group_of(one: st.SearchStrategy[CreditTrajectory], least: int = 1) -> st.SearchStrategy[Group]:
    return st.lists(one, min_size=least, max_size=6).map(
        lambda rows: Group("Who?", (GOLD,), tuple(rows))
    )


groups = group_of(trajectories(st.booleans()))


@pytest.mark.parametrize("name", ["igpo", "a2tgpo", "mig", "siop"])
def test_gains_that_differ_by_rounding_alone_teach_nothing(name: str) -> None:
    turns = (CreditTurn("query", "Nothing."), CreditTurn(None, ""))
    beliefs = [(-0.3, -0.1), (-0.2, 0.0), (-0.7, -0.5)]  # 0.2 and its neighbours
    assert len({after - before for before, after in beliefs}) > 1
    found = Group("Who?", (GOLD,), tuple(CreditTrajectory(GOLD, turns, row) for row in beliefs))
    options = {"siop": {"norm": "separate"}, "algorithm": name, "eps": 0.0}
    assert assign_credit(found, CreditConfig.model_validate(options)).level == "none"


configs = st.builds(
    CreditConfig,
    scale=st.sampled_from(["std", "none"]),
    std=st.sampled_from(["unbiased", "biased"]),
    mt_grpo=st.fixed_dictionaries({"turns": st.sampled_from(["each", "first"])}),
    gigpo=st.fixed_dictionaries(
        {
            "similarity": st.sampled_from([1.0, 0.7]),
            "population": st.sampled_from(["trajectory", "turn"]),
        }
    ),
    igpo=st.fixed_dictionaries(
        {
            "norm": st.sampled_from(["separate", "joint"]),
            "information_gain": st.sampled_from(["log_prob_diff", "prob_diff"]),
        }
    ),
    stratified_grpo=st.fixed_dictionaries(
        {"coef": st.sampled_from([0.3, 1.0]), "strata": st.sampled_from(["searches", "turns"])}
    ),
    a2tgpo=st.fixed_dictionaries(
        {
            "norm": st.sampled_from(["per_turn_index", "pooled_turns"]),
            "rescale": st.sampled_from(["sqrt", "none"]),
        }
    ),
    mig=st.fixed_dictionaries({"norm": st.sampled_from(["separate", "joint"])}),
    siop=st.fixed_dictionaries({"norm": st.sampled_from(["separate", "joint"])}),
    cw_grpo=st.fixed_dictionaries(
        {"sharpness": st.sampled_from([0.5, 2.0]), "useful": st.sampled_from(["hit", "first_hit"])}
    ),
    rejection_sampling=st.fixed_dictionaries({"keep_per_question": st.sampled_from([0, 1, 2])}),
)


def changed(config: CreditConfig, **options: Any) -> CreditConfig:
    return CreditConfig.model_validate(merge(config.model_dump(), options))


def rows(
    group: Group, name: str, config: CreditConfig | None = None, **options: Any
) -> list[tuple[float, ...]]:
    used = changed(config or CreditConfig(), algorithm=name, **options)
    return [trajectory.advantages for trajectory in assign_credit(group, used).trajectories]


@given(groups, configs, st.sampled_from([*ONE_PER_TRAJECTORY, "stratified_grpo"]))
def test_advantages_sum_to_zero_in_each_group(
    group: Group, config: CreditConfig, name: str
) -> None:
    found = rows(group, name, config)
    assert all(len(set(row)) == 1 for row in found)
    assert sum(row[0] for row in found) == pytest.approx(0, abs=1e-9)


@given(
    st.lists(groups, min_size=1, max_size=4),
    st.sampled_from(["reinforce_pp", "reinforce_pp_baseline"]),
)
def test_whitened_advantages_sum_to_zero_over_the_tokens_of_the_batch(
    batch: list[Group], name: str
) -> None:
    credits = assign_batch(batch, CreditConfig(algorithm=name))
    total = sum(
        turn.tokens * value
        for group, credit in zip(batch, credits, strict=True)
        for trajectory, one in zip(group.trajectories, credit.trajectories, strict=True)
        for turn, value in zip(trajectory.turns, one.advantages, strict=True)
    )
    assert total == pytest.approx(0, abs=1e-6)


@given(groups, configs, st.sampled_from(WITHOUT_MODEL), st.randoms(use_true_random=False))
def test_the_order_of_trajectories_changes_nothing(
    group: Group, config: CreditConfig, name: str, random: Any
) -> None:
    order = list(range(len(group.trajectories)))
    random.shuffle(order)
    straight = rows(group, name, config)
    shuffled = rows(
        replace(group, trajectories=tuple(group.trajectories[place] for place in order)),
        name,
        config,
    )
    if name == "rejection_sampling":  # of two that are alike in everything either may be kept
        pairs = [
            (group.trajectories[place].turns, row)
            for place, row in zip(order, shuffled, strict=True)
        ]
        wanted = [(one.turns, row) for one, row in zip(group.trajectories, straight, strict=True)]
        assert sorted(map(repr, pairs)) == sorted(map(repr, wanted))
        return
    for place, index in enumerate(order):
        assert shuffled[place] == pytest.approx(straight[index], abs=1e-9)


SHIFTED = (
    "siop",
    "mig",
    "cw_grpo",
    "a2tgpo",
    "stratified_grpo",
    "grpo",
    "dr_grpo",
    "rloo",
    "dapo",
    "gspo",
    "reinforce_pp_baseline",
    "mt_grpo",
    "gigpo",
    "igpo",
)


@given(groups, configs, st.sampled_from(SHIFTED), st.sampled_from([-1.0, 0.25, 3.0]))
def test_shifting_all_outcomes_changes_nothing(
    group: Group, config: CreditConfig, name: str, shift: float
) -> None:
    """gigpo without a discount, igpo, mig and siop with outcomes normalised apart: elsewhere a
    shift is not the same at all turns.
    """
    apart = {name: {"norm": "separate"} for name in ("igpo", "mig", "siop")}
    config = changed(config, **apart, gamma=1.0)
    judged = [judge(trajectory, group.golden_answers, config) for trajectory in group.trajectories]
    assign = ALGORITHMS[name]
    before = assign(judged, config).advantages
    after = assign(
        [replace(trajectory, outcome=trajectory.outcome + shift) for trajectory in judged], config
    ).advantages
    for row, other in zip(before, after, strict=True):
        assert row == pytest.approx(other, abs=1e-9)


@given(st.lists(groups, min_size=1, max_size=3))
def test_shifting_the_reward_changes_nothing_after_whitening(batch: list[Group]) -> None:
    """An outcome of em + 2 from a user's function against em."""
    plain = assign_batch(batch, CreditConfig(algorithm="reinforce_pp"))
    config = CreditConfig(algorithm="reinforce_pp", outcome=f"{SHIFTED_OUTCOME}:shifted_em")
    for credit, other in zip(plain, assign_batch(batch, config), strict=True):
        for one, shifted in zip(credit.trajectories, other.trajectories, strict=True):
            assert shifted.outcome == one.outcome + 2
            assert shifted.advantages == pytest.approx(one.advantages, abs=1e-8)


EQUAL = (
    "cw_grpo",
    "stratified_grpo",
    "tspo",
    "grpo",
    "dr_grpo",
    "rloo",
    "reinforce_pp",
    "reinforce_pp_baseline",
    "dapo",
    "gspo",
    "retrieval_bonus",
)


@given(group_of(trajectories(st.just(True))), st.sampled_from(EQUAL))
def test_all_correct_groups_are_exactly_zero(group: Group, name: str) -> None:
    assert not any(any(row) for row in rows(group, name))


fruitless = st.builds(
    lambda searches: CreditTrajectory(
        "Nobody", (*[CreditTurn("q", "Nothing.")] * searches, CreditTurn(None, ""))
    ),
    st.integers(1, 5),
)


@given(group_of(fruitless), st.sampled_from([*EQUAL, "mt_grpo", "gigpo", "rejection_sampling"]))
def test_equal_groups_have_no_bonus_for_more_turns(group: Group, name: str) -> None:
    """All wrong, nothing found, any number of searches: exactly nothing, also where it is 1 to 5
    turns.
    """
    assert not any(any(row) for row in rows(group, name))


@given(groups, st.sampled_from(ONE_PER_TRAJECTORY), st.integers(1, 3))
def test_more_fruitless_turns_change_no_ones_advantage(group: Group, name: str, more: int) -> None:
    first = group.trajectories[0]
    longer = replace(
        first, turns=(*[CreditTurn("q", "Nothing.")] * more, *first.turns), gold_logprobs=()
    )
    padded = rows(replace(group, trajectories=(longer, *group.trajectories[1:])), name)
    assert [row[0] for row in padded] == [row[0] for row in rows(group, name)]


def test_the_options_that_pay_for_more_turns_are_these() -> None:
    """What does depend on the number of turns is an option with a name: population = "turn" of
    gigpo, gamma below 1.
    """
    short = CreditTrajectory(GOLD, (CreditTurn("q", "a"), CreditTurn(None, "")))
    long = CreditTrajectory(
        GOLD,
        (CreditTurn("q", "b"), CreditTurn("q", "c"), CreditTurn("q", "d"), CreditTurn(None, "")),
    )
    wrong = CreditTrajectory(None, (CreditTurn("q", "e"), CreditTurn(None, "")))
    group = Group("Who?", (GOLD,), (short, long, wrong))
    even, discounted = rows(group, "gigpo"), rows(group, "gigpo", gamma=0.9)
    assert even[0][0] == even[1][0]
    assert discounted[0][0] > discounted[1][0]
    turn = rows(group, "gigpo", scale="none", gigpo={"population": "turn", "coef": 0.0})
    assert turn[0][0] == pytest.approx(1 - 6 / 8), (
        "a trajectory of four turns counts four times in the mean"
    )


@given(groups, configs)
def test_gspo_and_dapo_have_the_advantages_of_grpo(group: Group, config: CreditConfig) -> None:
    assert rows(group, "gspo", config) == rows(group, "dapo", config) == rows(group, "grpo", config)


@given(groups, configs, st.integers(0, 3))
def test_stratified_grpo_with_one_stratum_is_grpo(
    group: Group, config: CreditConfig, searches: int
) -> None:
    searched = tuple([CreditTurn("q", "Nothing.")] * searches)
    even = replace(
        group,
        trajectories=tuple(
            replace(one, turns=(*searched, one.turns[-1]), gold_logprobs=())
            for one in group.trajectories
        ),
    )
    assert rows(even, "stratified_grpo", config) == rows(even, "grpo", config)


@given(groups, configs, st.sampled_from([{"information_gain": "off"}, {"coef": 0.0}]))
def test_a2tgpo_without_its_gain_is_grpo(
    group: Group, config: CreditConfig, off: dict[str, Any]
) -> None:
    assert rows(group, "a2tgpo", config, a2tgpo=off) == rows(group, "grpo", config)


@given(groups, configs)
def test_cw_grpo_moves_credit_between_searches_of_a_rollout(
    group: Group, config: CreditConfig
) -> None:
    """The mean over a rollout's searches stays GRPO's, and all signs stay."""
    for row, base in zip(rows(group, "cw_grpo", config), rows(group, "grpo", config), strict=True):
        assert row[-1] == base[-1]
        assert sum(row) == pytest.approx(sum(base), abs=1e-9)
        assert all(value * base[0] >= 0 for value in row)
    assert rows(group, "cw_grpo", config, cw_grpo={"sharpness": 0.0}) == [
        pytest.approx(row) for row in rows(group, "grpo", config)
    ]


@given(groups, configs)
def test_rloo_is_dr_grpo_scaled(group: Group, config: CreditConfig) -> None:
    size = len(group.trajectories)
    for row, other in zip(rows(group, "rloo", config), rows(group, "dr_grpo", config), strict=True):
        assert row == pytest.approx([value * size / max(1, size - 1) for value in other])


@given(groups)
def test_the_bonus_on_the_trajectory_is_tspo_without_turns(group: Group) -> None:
    same = {"gate": "never", "mixed_reward": "outcome_plus_alpha"}
    assert rows(group, "retrieval_bonus") == rows(group, "tspo", CreditConfig(**same))


def test_defaults_of_algorithms_fill_what_is_left_open() -> None:
    for name, algorithm in ALGORITHMS.items():
        dumped = flatten(load_config([], [f"credit.algorithm={name}"]).section_dict())
        assert {key: dumped[key] for key in algorithm.defaults} == algorithm.defaults
    chosen = load_config([], ["credit.algorithm=dapo", "loss.clip_high=0.2"])
    assert (chosen.loss.clip_high, chosen.loss.dual_clip, chosen.rollout.dynamic_sampling) == (
        0.2,
        10.0,
        True,
    )
    assert load_config([], ["kind=rejection_sampling"]).credit.algorithm == "rejection_sampling"
    assert load_config([], ["credit.algorithm=grpo"]).loss == load_config([]).loss
