"""Each algorithm against vectors worked out by hand; the arithmetic stands beside them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tspo_cli.config.load_config import load_config
from tspo_cli.config.schema import CreditConfig
from tspo_cli.credit.assign import assign_batch, assign_credit
from tspo_cli.credit.group import CreditTrajectory, CreditTurn, Group
from tspo_cli.credit.outcome import outcome_reward
from tspo_cli.errors import InvalidInputError, MissingResourceError

GOLD = "Ada Lovelace"
HIT, VOID = f"It was {GOLD}.", "Nothing of use."


def attempt(
    turns: int, first: int | None, correct: int, beliefs: tuple[float, ...] = ()
) -> CreditTrajectory:
    """`turns` - 1 searches, of which number `first` finds the answer, and an answer."""
    searches = [
        CreditTurn(f"query {turn}", HIT if turn == first else VOID) for turn in range(1, turns)
    ]
    return CreditTrajectory(
        GOLD if correct else "Nobody", (*searches, CreditTurn(None, "")), beliefs
    )


def group(*attempts: CreditTrajectory) -> Group:
    return Group("Who?", (GOLD,), attempts)


# Outcomes 1 0 0 1 0: mean 0.4, sum of squared deviations 1.2.
MIXED = group(
    attempt(3, 2, 1), attempt(4, 2, 0), attempt(3, None, 0), attempt(2, 1, 1), attempt(4, None, 0)
)
TURNS = (3, 4, 3, 2, 4)


def advantages(which: Group, algorithm: str, **options: Any) -> list[tuple[float, ...]]:
    credit = assign_credit(which, CreditConfig(algorithm=algorithm, **options))
    return [trajectory.advantages for trajectory in credit.trajectories]


def check(found: list[tuple[float, ...]], wanted: list[list[float]]) -> None:
    assert [len(row) for row in found] == [len(row) for row in wanted]
    for row, expected in zip(found, wanted, strict=True):
        assert row == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    ("algorithm", "options", "right", "wrong"),
    [
        ("grpo", {}, 1.09545, -0.73030),  # / sqrt(1.2 / 4)
        ("grpo", {"std": "biased"}, 1.22474, -0.81650),  # / sqrt(1.2 / 5)
        ("grpo", {"scale": "none"}, 0.6, -0.4),
        ("grpo", {"eps": 0.45228}, 0.6, -0.4),  # sqrt(0.3) + 0.45228 = 1
        ("dr_grpo", {}, 0.6, -0.4),
        ("rloo", {}, 0.75, -0.5),  # 1 - 1/4 and 0 - 2/4
        ("dapo", {}, 1.09545, -0.73030),
        ("gspo", {}, 1.09545, -0.73030),
        # 16 turns of one token, 5 of them 1: mean 0.3125, variance (5 * 0.6875^2 + 11 * 0.3125^2) /
        # 15 = 0.229167
        ("reinforce_pp", {}, 1.43614, -0.65279),
        ("reinforce_pp_baseline", {}, 1.43614, -0.65279),
    ],
)
def test_one_advantage_per_trajectory(
    algorithm: str, options: dict[str, Any], right: float, wrong: float
) -> None:
    values = (right, wrong, wrong, right, wrong)
    check(
        advantages(MIXED, algorithm, **options),
        [[value] * k for value, k in zip(values, TURNS, strict=True)],
    )


def test_reinforce_pp_whitens_over_the_tokens_of_the_batch() -> None:
    """Three tokens of outcome 1, one of 0, and a group of two tokens of 1: mean 5/6, std
    sqrt(1/6).
    """
    first = group(
        CreditTrajectory(GOLD, (CreditTurn(None, "", "", 3),)),
        CreditTrajectory(None, (CreditTurn(None, ""),)),
    )
    second = group(attempt(1, None, 1), attempt(1, None, 1))
    plain = assign_batch([first, second], CreditConfig(algorithm="reinforce_pp"))
    check(
        [trajectory.advantages for credit in plain for trajectory in credit.trajectories],
        [[0.40825], [-2.04124], [0.40825], [0.40825]],
    )
    # Baseline: 0.5 three times, -0.5, 0 twice: mean 1/6, std sqrt(1/6) again
    based = assign_batch([first, second], CreditConfig(algorithm="reinforce_pp_baseline"))
    check(
        [trajectory.advantages for credit in based for trajectory in credit.trajectories],
        [[0.81650], [-1.63299], [-0.40825], [-0.40825]],
    )
    assert [credit.level for credit in based] == ["trajectory", "trajectory"]


def test_whitening_counts_what_other_processes_have() -> None:
    first, second = (
        group(attempt(1, None, 1), attempt(1, None, 0)),
        group(attempt(2, None, 1), attempt(1, None, 1)),
    )
    config = CreditConfig(algorithm="reinforce_pp")
    together = assign_batch([first, second], config)
    seen: list[list[float]] = []

    def both(values: Any) -> list[float]:
        """The sums of both processes: of `first`, n = 2, total 1; of `second`, n = 3, total 3."""
        seen.append(list(values))
        if len(values) == 2:
            return [5.0, 4.0]
        return [0.8]  # 4 * 0.2^2 + 0.8^2

    assert [
        trajectory.advantages for trajectory in assign_batch([first], config, both)[0].trajectories
    ] == [pytest.approx(trajectory.advantages) for trajectory in together[0].trajectories]
    assert seen[0] == [2, 1]


def test_retrieval_bonus() -> None:
    """1, 0.5, 0, 1, 0: mean 0.5, std 0.5."""
    check(advantages(MIXED, "retrieval_bonus"), [[1] * 3, [0] * 4, [-1] * 3, [1] * 2, [-1] * 4])
    wrong = group(
        attempt(4, 2, 0),
        attempt(3, 1, 0),
        attempt(4, None, 0),
        attempt(2, None, 0),
        attempt(4, None, 0),
    )
    values = (1.09545, 1.09545, -0.73030, -0.73030, -0.73030)
    check(
        advantages(wrong, "retrieval_bonus"),
        [[v] * k for v, k in zip(values, (4, 3, 4, 2, 4), strict=True)],
    )


def test_rejection_sampling_keeps_the_best() -> None:
    assert [row[0] for row in advantages(MIXED, "rejection_sampling")] == [0, 0, 0, 1, 0], (
        "fewer turns among equals"
    )
    assert [
        row[0]
        for row in advantages(
            MIXED, "rejection_sampling", rejection_sampling={"keep_per_question": 0}
        )
    ] == [
        1,
        0,
        0,
        1,
        0,
    ]
    wrong = group(attempt(2, 1, 0), attempt(2, None, 0))
    assert advantages(wrong, "rejection_sampling") == [(0, 0), (0, 0)]


def test_mt_grpo_with_several_searches() -> None:
    """Outcome: 1.09545 or -0.73030. Search 1: 0.7 once, 0.2 four times: 1.78885 or -0.44721. Search
    2: 0.7, 0.7, 0.2, 0.2: +-0.86603. Search 3: equal, 0.
    """
    wanted = [
        [0.64823, 1.96147, 1.09545],
        [-1.17751, 0.13573, -0.73030, -0.73030],
        [-1.17751, -1.59632, -0.73030],
        [2.88430, 1.09545],
        [-1.17751, -1.59632, -0.73030, -0.73030],
    ]
    check(advantages(MIXED, "mt_grpo"), wanted)
    half = advantages(MIXED, "mt_grpo", mt_grpo={"coef": 0.5})
    assert half[3] == pytest.approx((1.09545 + 0.5 * 1.78885, 1.09545), abs=1e-4)


def test_mt_grpo_as_published_credits_the_first_search_alone() -> None:
    wanted = [
        [0.64823, 1.09545, 1.09545],
        [-1.17751, -0.73030, -0.73030, -0.73030],
        [-1.17751, -0.73030, -0.73030],
        [2.88430, 1.09545],
        [-1.17751, -0.73030, -0.73030, -0.73030],
    ]
    check(advantages(MIXED, "mt_grpo", mt_grpo={"turns": "first"}), wanted)


@pytest.mark.parametrize("first_or_each", ["each", "first"])
def test_mt_grpo_without_a_search_compares_merged_rewards(first_or_each: str) -> None:
    """Right without a search: merged 1; wrong with a hit: 0.7. Outcomes and merged rewards are both
    +-0.70711.
    """
    found = advantages(
        group(attempt(1, None, 1), attempt(2, 1, 0)), "mt_grpo", mt_grpo={"turns": first_or_each}
    )
    extra = (
        0.70711 if first_or_each == "first" else 0.0
    )  # its turn reward 0.7 against 0; alone at search 1 otherwise
    check(found, [[0.70711], [-0.70711 + extra, -0.70711]])


def test_gigpo() -> None:
    """Outcomes 1 0 1: 0.57735, -1.15470. With gamma 0.9 the returns are [0.81 0.9 1], [0 0 0], [0.9
    1]. From the question: 0.81, 0, 0.9, mean 0.57, std 0.495681. After VOID: 0.9, 0: +-0.70711.
    After HIT: 1, 0, 1.
    """
    found = advantages(
        group(attempt(3, 2, 1), attempt(3, 1, 0), attempt(2, 1, 1)), "gigpo", gamma=0.9
    )
    check(found, [[1.06153, 1.28446, 1.15470], [-2.30463, -2.30940, -1.86181], [1.24310, 1.15470]])


def test_gigpo_options() -> None:
    which = group(attempt(3, 2, 1), attempt(3, 1, 0), attempt(2, 1, 1))
    off = advantages(which, "gigpo", gamma=0.9, gigpo={"coef": 0.0})
    assert off == advantages(which, "grpo")
    # Once per turn: 1 1 1 0 0 0 1 1, mean 0.625, centred alone
    per_turn = advantages(which, "gigpo", scale="none", gigpo={"coef": 0.0, "population": "turn"})
    check(per_turn, [[0.375] * 3, [-0.625] * 3, [0.375] * 2])


def test_gigpo_joins_similar_observations() -> None:
    def one(feedback: str, correct: int) -> CreditTrajectory:
        return CreditTrajectory(
            GOLD if correct else None, (CreditTurn("q", feedback), CreditTurn(None, ""))
        )

    which = group(one("Doc 1 alpha beta gamma", 1), one("Doc 1 alpha beta gamme", 0))
    apart = advantages(which, "gigpo", gigpo={"similarity": 1.0}, scale="none")
    joined = advantages(which, "gigpo", gigpo={"similarity": 0.9}, scale="none")
    check(apart, [[1.0, 0.5], [-1.0, -0.5]])
    check(joined, [[1.0, 1.0], [-1.0, -1.0]])


IGPO = group(attempt(3, 2, 1, (-3.0, -2.0, -0.5)), attempt(2, None, 0, (-3.0, -3.5)))


def test_igpo_separate() -> None:
    """Gains 1, 1.5, -0.5: mean 2/3, biased std 0.849837; outcomes +-1; then sums of what
    follows.
    """
    found = advantages(IGPO, "igpo", std="biased")
    check(found, [[0.39223 + 0.98058 + 1, 0.98058 + 1, 1.0], [-1.37281 - 1, -1.0]])
    discounted = advantages(IGPO, "igpo", std="biased", gamma=0.5)
    check(
        discounted, [[0.39223 + 0.5 * (0.98058 + 0.5), 0.98058 + 0.5, 1.0], [-1.37281 - 0.5, -1.0]]
    )


def test_igpo_joint() -> None:
    """1, 1.5, -0.5 and 1, 0 together: mean 0.6, biased std 0.734847."""
    found = advantages(IGPO, "igpo", std="biased", igpo={"norm": "joint"})
    check(found, [[2.31341, 1.76908, 0.54433], [-2.31341, -0.81650]])


def test_igpo_gain_of_probability() -> None:
    config = CreditConfig(algorithm="igpo", igpo={"information_gain": "prob_diff"})
    rewards = [trajectory.turn_rewards for trajectory in assign_credit(IGPO, config).trajectories]
    check(rewards, [[0.08555, 0.47120, 1.0], [-0.01959, 0.0]])


@pytest.mark.parametrize(("algorithm", "what"), [("igpo", "gold_logprobs"), ("ppo", "critic")])
def test_what_needs_a_model_says_so(algorithm: str, what: str) -> None:
    with pytest.raises(InvalidInputError, match=f"{algorithm} needs a model: .*{what}"):
        advantages(MIXED, algorithm)


def test_em_format_has_the_values_of_search_r1() -> None:
    def one(answer: str | None, text: str) -> CreditTrajectory:
        return CreditTrajectory(answer, (CreditTurn(None, "", text),))

    valid, bad = "<think>x</think><answer>y</answer>", "<think>x<answer>y</answer>"
    config = CreditConfig(outcome="em_format", retrieval_score=0.15)

    def reward(answer: str | None, text: str, *, found: bool = False) -> float:
        return outcome_reward(one(answer, text), [GOLD], config, found=found)

    assert reward(GOLD, valid) == 1.0
    assert reward(GOLD, bad) == pytest.approx(0.8)
    assert reward("Bob", valid) == pytest.approx(0.2)
    assert reward("Bob", valid, found=True) == pytest.approx(0.35)
    assert reward("Bob", bad, found=True) == pytest.approx(0.1)
    assert reward(None, "<search>a</search>", found=True) == pytest.approx(0.35)
    assert reward(None, bad, found=True) == 0.0


@pytest.mark.parametrize(
    ("tokens", "penalty"), [(6, 0.0), (7, 0.25), (8, 0.5), (10, 1.0), (30, 1.0)]
)
def test_overlong_penalty(tokens: int, penalty: float) -> None:
    one = CreditTrajectory(GOLD, (CreditTurn("q", "", "", tokens - 1), CreditTurn(None, "")))
    config = CreditConfig(overlong_limit=10, overlong_buffer=4)
    assert outcome_reward(one, [GOLD], config) == pytest.approx(1 - penalty)
    assert outcome_reward(one, [GOLD], CreditConfig()) == 1


RULE = """
def searches_count(group, config):
    mean = sum(trajectory.outcome for trajectory in group) / len(group)
    return [
        [(one.outcome - mean) * (turn.query is not None) for turn in one.trajectory.turns]
        for one in group
    ]

def short(group, config):
    return [[0.0] for one in group]

def text(group, config):
    return "nothing"

def endless(group, config):
    return [[float("inf")] * trajectory.turns for trajectory in group]

def length_reward(answer, golds, trajectory):
    return len(answer or "") / 10 + (answer in golds)

def broken_reward(answer, golds, trajectory):
    return None

NUMBER = 3
"""


@pytest.fixture
def rule(tmp_path: Path) -> Path:
    path = tmp_path / "my_rule.py"
    path.write_text(RULE)
    return path


def test_an_algorithm_of_the_users_own(rule: Path) -> None:
    found = advantages(MIXED, f"{rule}:searches_count")
    check(found, [[0.6, 0.6, 0], [-0.4] * 3 + [0], [-0.4] * 2 + [0], [0.6, 0], [-0.4] * 3 + [0]])
    assert load_config([], [f"credit.algorithm={rule}:searches_count"]).credit.algorithm.endswith(
        ":searches_count"
    )


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("short", r"one advantage per turn, \[3, 4, 3, 2, 4\], got \[1, 1, 1, 1, 1\]"),
        ("text", "a list of advantages per trajectory, got str"),
        ("endless", "finite numbers"),
        ("absent", "has no function absent"),
        ("NUMBER", "has no function NUMBER"),
    ],
)
def test_what_is_wrong_with_it_is_said(rule: Path, name: str, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        advantages(MIXED, f"{rule}:{name}")


def test_files_that_cannot_be_run(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import nothing_of_that_name\n")
    with pytest.raises(InvalidInputError, match=r"bad\.py cannot be run: ModuleNotFoundError"):
        advantages(MIXED, f"{tmp_path}/bad.py:rule")
    with pytest.raises(MissingResourceError, match="no such file"):
        advantages(MIXED, f"{tmp_path}/none.py:rule")


def test_an_outcome_of_the_users_own(rule: Path) -> None:
    config = load_config([], [f"credit.outcome={rule}:length_reward"]).credit
    assert outcome_reward(attempt(1, None, 1), [GOLD], config) == pytest.approx(2.2)
    assert (
        assign_credit(group(attempt(1, None, 1)), config).trajectories[0].trajectory_class
        == "success"
    )
    broken = config.model_copy(update={"outcome": f"{rule}:broken_reward"})
    with pytest.raises(InvalidInputError, match="returned None; expected a finite number"):
        outcome_reward(attempt(1, None, 1), [GOLD], broken)
    with pytest.raises(
        InvalidInputError,
        match=r"credit\.outcome: expected one of em, f1, f1_plus, em_format, judge or FILE",
    ):
        load_config([], ["credit.outcome=recall"])
