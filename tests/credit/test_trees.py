"""Credit of rollouts that share turns: vectors worked out by hand, and laws for every tree."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.credit.test_algorithms_laws import groups as whole_groups
from tspo_cli.config.schema import CreditConfig
from tspo_cli.credit.algorithms import ALGORITHMS
from tspo_cli.credit.assign import assign_credit
from tspo_cli.credit.folr import judge
from tspo_cli.credit.group import CreditTrajectory, CreditTurn, Group
from tspo_cli.credit.laboratory.group_file import read_group
from tspo_cli.errors import InvalidInputError
from tspo_cli.record_forms import GROUP, checked
from tspo_cli.rollout.branch import Branch

GOLD = "Ada"
TREES = ("tree_grpo", "arpo", "at2po", "sipo")


def leaf(correct: bool, *path: int) -> CreditTrajectory:
    turns = tuple(CreditTurn(f"query {owner}", "nothing") for owner in path[:-1])
    return CreditTrajectory(
        GOLD if correct else "Nobody", (*turns, CreditTurn(None, "")), path=path
    )


def group(*leaves: CreditTrajectory) -> Group:
    return Group("Who?", (GOLD,), leaves)


# Two trees: rollouts 0, 2, 3 begin with turn 1 of rollout 0, rollouts 1 and 4 with that of 1.
# 0: a right answer after two searches; 2: wrong, from its second search on; 3: wrong, shares that
# search with 2; 1: wrong; 4: right.
FOREST = group(
    leaf(True, 0, 0, 0),
    leaf(False, 1, 1),
    leaf(False, 0, 2, 2),
    leaf(False, 0, 2, 3),
    leaf(True, 1, 4),
)


def advantages(
    found: Group, name: str, config: CreditConfig | None = None, **options: Any
) -> list[tuple[float, ...]]:
    base = (config or CreditConfig()).model_dump()
    used = CreditConfig.model_validate({**base, "algorithm": name, **options})
    return [credit.advantages for credit in assign_credit(found, used).trajectories]


def check(found: list[tuple[float, ...]], wanted: list[list[float]]) -> None:
    assert [len(row) for row in found] == [len(row) for row in wanted]
    for row, expected in zip(found, wanted, strict=True):
        assert row == pytest.approx(expected, abs=2e-5)


def test_tree_grpo() -> None:
    """Outcomes 1 0 0 0 1: mean 0.4, std 0.54772: z 1.09545 and -0.73030. Tree of 0, 2, 3: 1 0 0,
    z 1.15470, -0.57735 twice. Tree of 1, 4: 0 1, z -+0.70711.
    """
    values = (2.25015, -1.43740, -1.30765, -1.30765, 1.80255)
    wanted = [
        [value] * len(one.turns) for value, one in zip(values, FOREST.trajectories, strict=True)
    ]
    check(advantages(FOREST, "tree_grpo"), wanted)
    half = [[(value + z) / 2] for value, z in zip(values, (1.09545, -0.73030) * 2, strict=False)]
    found = advantages(FOREST, "tree_grpo", tree_grpo={"intra": 0.5})
    assert found[0][0] == pytest.approx(half[0][0], abs=2e-5)
    assert advantages(FOREST, "tree_grpo", tree_grpo={"intra": 0}) == advantages(FOREST, "grpo")


# z of the outcomes 1 0 0 0 1 over all five.
RIGHT, WRONG = 1.09545, -0.73030


def test_arpo() -> None:
    """Turn 1 of 0 is shared by 0, 2 and 3: (1.09545 - 2 x 0.73030) / 3 = -0.12172. Turn 2 of
    2 by 2 and 3, both -0.73030. Turn 1 of rollout 1 by 1 and 4: 0.18257.
    """
    wanted = [
        [-0.12172, RIGHT, RIGHT],
        [0.18257, WRONG],
        [-0.12172, WRONG, WRONG],
        [-0.12172, WRONG, WRONG],
        [0.18257, RIGHT],
    ]
    check(advantages(FOREST, "arpo"), wanted)
    assert advantages(FOREST, "arpo", arpo={"shared": "own"}) == advantages(FOREST, "grpo")


def test_at2po() -> None:
    """Turn 2 of rollout 2 has two continuations of -0.73030. Turn 1 of 0 has two, 1.09545 and
    -0.73030: softmax weights 0.86129 and 0.13871 of e^1.82574 = 6.20740 to 1, mean 0.84217; so
    has turn 1 of rollout 1.
    """
    wanted = [
        [0.84217, RIGHT, RIGHT],
        [0.84217, WRONG],
        [0.84217, WRONG, WRONG],
        [0.84217, WRONG, WRONG],
        [0.84217, RIGHT],
    ]
    found = advantages(FOREST, "at2po")
    for row, expected in zip(found, wanted, strict=True):
        assert row == pytest.approx(expected, abs=1e-4)
    # Within trees: 1 0 0 -> 1.15470 -0.57735, and 0 1 -> -+0.70711. Hot: plain means.
    options = {"leaves": "tree", "temperature": 1e9}
    wanted = [
        [0.28868, 1.15470, 1.15470],
        [0.0, -0.70711],
        [0.28868, -0.57735, -0.57735],
        [0.28868, -0.57735, -0.57735],
        [0.0, 0.70711],
    ]
    check(advantages(FOREST, "at2po", at2po=options), wanted)


def test_sipo() -> None:
    """Branches 2, 3 and 4 with uncertainties 1, 2, 3, numbers 3, 2, 1 of 3. u in standard
    deviations: -1.22474, 0, 1.22474; V -0.73030 twice and 1.09545, mean -0.12172; a = (1.22474 x
    0.60858 + 1.22474 x 1.21717) / 3 = 0.74536. h(1, 3) = Phi^-1(2.625 / 3.25) = 0.86944, h(2, 3)
    = 0, h(3, 3) = -0.86944: V of 2 becomes -0.73030 + 0.64804 and V of 4 1.09545 - 0.64804.
    """
    uncertain = {2: (3, 1.0), 3: (2, 2.0), 4: (1, 3.0)}
    leaves = tuple(
        replace(one, branch=Branch(one.path[:-1], uncertain[index][0], 3, uncertain[index][1]))
        if index in uncertain
        else one
        for index, one in enumerate(FOREST.trajectories)
    )
    chosen = replace(FOREST, trajectories=leaves)
    lasts = [row[-1] for row in advantages(chosen, "sipo")]
    assert lasts == pytest.approx([RIGHT, WRONG, -0.08226, WRONG, 0.44741], abs=1e-4)
    # Turn 2 of rollout 2: continuations -0.08226 and -0.73030, weights 0.65654 and 0.34346.
    found = advantages(chosen, "sipo")[2][1]
    assert found == pytest.approx(0.65654 * -0.08226 + 0.34346 * -0.73030, abs=1e-4)
    for options in ({"weight": 0}, {"least_branches": 4}):
        assert advantages(chosen, "sipo", sipo=options) == advantages(FOREST, "at2po")
    assert advantages(FOREST, "sipo") == advantages(FOREST, "at2po"), "no ranks are known"


def paths(random: Any, size: int) -> list[tuple[int, ...]]:
    """Paths of rollouts: each branches from a turn of an earlier one, or begins at the question."""
    found: list[tuple[int, ...]] = []
    for number in range(size):
        owners: tuple[int, ...] = ()
        if found and random.random() < 0.7:
            parent = random.choice(found)
            owners = parent[: random.randint(0, len(parent) - 1)]
        found.append(owners + (number,) * random.randint(1, 3))
    return found


def tree(random: Any, size: int) -> Group:
    return group(
        *(
            replace(
                leaf(random.random() < 0.5, *path),
                branch=Branch((), random.randint(1, 4), 4, random.random()),
            )
            for path in paths(random, size)
        )
    )


trees = st.builds(tree, st.randoms(use_true_random=False), st.integers(1, 9))
configs = st.builds(
    CreditConfig,
    scale=st.sampled_from(["std", "none"]),
    std=st.sampled_from(["unbiased", "biased"]),
)


@given(whole_groups, configs, st.sampled_from(TREES))
def test_rollouts_that_share_nothing_get_grpo_bit_for_bit(
    found: Group, config: CreditConfig, name: str
) -> None:
    wanted = advantages(found, "grpo", config)
    assert advantages(found, name, config) == wanted
    # So do roots that never branched.
    rooted = tuple(
        replace(one, path=(index,) * len(one.turns)) for index, one in enumerate(found.trajectories)
    )
    assert advantages(replace(found, trajectories=rooted), name, config) == wanted


@given(trees, configs, st.sampled_from(TREES), st.randoms(use_true_random=False))
def test_the_order_of_rollouts_changes_nothing(
    found: Group, config: CreditConfig, name: str, random: Any
) -> None:
    order = list(range(len(found.trajectories)))
    random.shuffle(order)
    straight = advantages(found, name, config)
    moved = replace(found, trajectories=tuple(found.trajectories[index] for index in order))
    for row, index in zip(advantages(moved, name, config), order, strict=True):
        assert row == pytest.approx(straight[index], abs=1e-9)


@given(trees, configs, st.sampled_from(TREES), st.sampled_from([-1.0, 0.25, 3.0]))
def test_shifting_all_outcomes_changes_nothing(
    found: Group, config: CreditConfig, name: str, shift: float
) -> None:
    judged = [judge(one, found.golden_answers, config) for one in found.trajectories]
    config = CreditConfig.model_validate({**config.model_dump(), "algorithm": name})
    before = ALGORITHMS[name](judged, config).advantages
    moved = [replace(one, outcome=one.outcome + shift) for one in judged]
    for row, other in zip(before, ALGORITHMS[name](moved, config).advantages, strict=True):
        assert row == pytest.approx(other, abs=1e-9)


@given(trees, configs, st.sampled_from(TREES), st.booleans())
def test_equal_outcomes_teach_nothing(
    found: Group, config: CreditConfig, name: str, correct: bool
) -> None:
    answer = GOLD if correct else "Nobody"
    same = tuple(replace(one, answer=answer) for one in found.trajectories)
    rows = advantages(replace(found, trajectories=same), name, config)
    assert all(value == 0.0 for row in rows for value in row)


def test_a_file_may_hold_a_tree(tmp_path: Path) -> None:
    rollouts = [
        {
            "answer": one.answer,
            "turns": [*[{"query": "q", "feedback": "nothing"}] * (len(one.turns) - 1), {}],
            "path": list(one.path),
        }
        for one in FOREST.trajectories
    ]
    file = tmp_path / "group.json"
    record = {"question": "Who?", "golden_answers": [GOLD], "trajectories": rollouts}
    file.write_text(json.dumps(record))
    assert advantages(read_group(file), "at2po") == advantages(FOREST, "at2po")
    for wrong in ([0], ["0", "0", "0"], 7, [0, -1, 0], [0, True, 0]):
        rollouts[0]["path"] = wrong
        file.write_text(json.dumps(record))
        with pytest.raises(InvalidInputError, match='trajectory 1: expected "path" to be 3 integ'):
            read_group(file)
    rollouts[0]["path"] = [7, 2, 2]
    file.write_text(json.dumps(record))
    with pytest.raises(InvalidInputError, match=r"group\.json: path: trajectories 1 and 3 share"):
        read_group(file)


def test_a_path_has_one_number_per_turn() -> None:
    with pytest.raises(InvalidInputError, match=r"path: expected one number per turn \(2\), got 1"):
        replace(leaf(True, 0, 0), path=(0,))
    with pytest.raises(InvalidInputError, match="path: expected numbers of 0 or more, got -2"):
        leaf(True, 0, -2)


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (((0, 0), (0, 0)), "1 and 2 share turn 2, the last"),  # equal
        (((0, 0, 0), (1, 1), (0, 0)), "1 and 3 share turn 2, the last"),  # ends inside another
        (((0, 0), (0, 0, 2)), "1 and 2 share turn 2, the last"),
        (((0, 0, 0), (1, 0, 1)), "1 and 2 share turn 2, and not all"),  # rejoins
        (((0, 1, 0), (0, 2, 2), (0, 3, 0)), "1 and 3 share turn 3, and not all"),
    ],
)
def test_paths_form_trees(paths: tuple[tuple[int, ...], ...], words: str) -> None:
    with pytest.raises(InvalidInputError, match=f"path: trajectories {words}"):
        group(*(leaf(True, *path) for path in paths))


def test_a_turn_that_is_shared_is_the_same_turn() -> None:
    one, other = leaf(True, 0, 0), leaf(False, 0, 1)
    turn = replace(one.turns[0], feedback="something else")
    with pytest.raises(InvalidInputError, match="path: trajectories 1 and 2 share turn 1, but its"):
        group(one, replace(other, turns=(turn, other.turns[1])))


def test_a_baseline_of_turn_counts_is_refused_where_turns_are_shared() -> None:
    with pytest.raises(InvalidInputError, match=r"credit\.turn_count_baseline: not for rollouts t"):
        assign_credit(FOREST, CreditConfig(turn_count_baseline=True))


def test_a_rank_that_cannot_be_is_refused_where_records_are_read() -> None:
    def record(**changes: Any) -> dict[str, Any]:
        branch = {"parent": 0, "turns": 1, "rank": 1, "candidates": 3, "uncertainty": 0.5}
        rollout = {"turns": [], "branch": branch | changes}
        return {
            "group": ["nq", "q", 0],
            "question": "?",
            "golden_answers": [],
            "trajectories": [rollout],
        }

    for right in ({}, {"rank": 3}, {"rank": 0}, {"rank": 0, "candidates": 0}):
        checked(GROUP, record(**right), "here")
    for wrong in (
        {"rank": 4},
        {"rank": -1},
        {"candidates": 0},
        {"candidates": 2**52},
        {"uncertainty": float("inf")},
        {"uncertainty": float("nan")},
        {"uncertainty": 1e300},
    ):
        with pytest.raises(InvalidInputError, match=r"here: not a record of tspo: .*branch"):
            checked(GROUP, record(**wrong), "here")


def test_sipo_leaves_turns_that_were_drawn_as_they_are() -> None:
    drawn = tuple(
        replace(one, branch=Branch(one.path[:-1], 0, 3, float(index))) if index > 1 else one
        for index, one in enumerate(FOREST.trajectories)
    )
    found = advantages(replace(FOREST, trajectories=drawn), "sipo", sipo={"least_branches": 2})
    assert found == advantages(FOREST, "at2po")
