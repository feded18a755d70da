"""Credit methods of 2026 against vectors worked out by hand; the arithmetic stands beside them."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.credit.test_algorithms_golden import (
    GOLD,
    MIXED,
    TURNS,
    advantages,
    attempt,
    check,
    group,
)
from tspo_cli.config.load_config import load_config
from tspo_cli.config.rules import rule_problems
from tspo_cli.config.schema import CreditConfig, LossConfig
from tspo_cli.credit.algorithms import ALGORITHMS
from tspo_cli.credit.algorithms.by_turn.siop import SiopOptions, clusters_of
from tspo_cli.credit.algorithms.by_turn.tips import TipsOptions
from tspo_cli.credit.assign import assign_credit
from tspo_cli.credit.folr import judge
from tspo_cli.credit.group import CreditTrajectory, CreditTurn, JudgedTrajectory
from tspo_cli.credit.outcome import outcome_reward
from tspo_cli.data.question import Question
from tspo_cli.rollout.trajectory import GroupId, Trajectory, Turn
from tspo_cli.training.core.losses import clipped_policy_loss
from tspo_cli.training.core.micro_batches import micro_batches
from tspo_cli.training.core.sequences import policy_sequence
from tspo_cli.training.rl.gold_logprobs import gold_logprobs, log_sum


def test_stratified_grpo() -> None:
    """Searches 2 3 2 1 3. Of two searches: outcomes 1, 0, +-0.70711; of three: 0, 0; of one: 1
    alone. Half of that and half of GRPO's 1.09545 and -0.73030.
    """
    values = (0.90128, -0.36515, -0.71871, 0.54772, -0.36515)
    wanted = [[value] * turns for value, turns in zip(values, TURNS, strict=True)]
    check(advantages(MIXED, "stratified_grpo"), wanted)


def test_stratified_grpo_within_strata_alone() -> None:
    values = (0.5, 0.0, -0.5, 0.0, 0.0)
    wanted = [[value] * turns for value, turns in zip(values, TURNS, strict=True)]
    options = {"coef": 1.0, "strata": "turns"}
    check(advantages(MIXED, "stratified_grpo", scale="none", stratified_grpo=options), wanted)


# Gains by turn: 1, 1.5 | -0.5, 0.5 | 2.5. Outcomes 1, 0, 0.
GAINS = group(
    attempt(3, 2, 1, (-3.0, -2.0, -0.5)),
    attempt(3, None, 0, (-3.0, -3.5, -3.0)),
    attempt(2, 1, 0, (-3.0, -0.5)),
)


def test_a2tgpo() -> None:
    """Outcomes: 1.15470, -0.57735 twice. Gains of search 1: 1, -0.5, 2.5, mean 1, std 1.5: 0, -1,
    1. Of search 2: 1.5, 0.5: +-0.70711. D of search 1: (0 + 0.70711) / sqrt 2 = 0.5,
    (-1 - 0.70711) / sqrt 2 = -1.20711, and 1; of search 2 +-0.70711. A = 0.3 D + A(outcome).
    """
    wanted = [
        [1.15470 + 0.15, 1.15470 + 0.21213, 1.15470],
        [-0.57735 - 0.36213, -0.57735 - 0.21213, -0.57735],
        [-0.57735 + 0.3, -0.57735],
    ]
    check(advantages(GAINS, "a2tgpo"), wanted)
    credit = assign_credit(GAINS, CreditConfig(algorithm="a2tgpo"))
    # 2 sigmoid(1) - 1 = 0.46212, 2 sigmoid(0.70711) - 1 = 0.33952
    check(
        [trajectory.clip_scales for trajectory in credit.trajectories],
        [[1, 1.10186, 1], [0.86136, 0.89814, 1], [1.13864, 1]],
    )


def test_a2tgpo_options() -> None:
    """Pooled: 1, 1.5, -0.5, 0.5, 2.5, mean 1, centred 0, 0.5, -1.5, -0.5, 1.5; outcomes 2/3,
    -1/3.
    """
    options = {"norm": "pooled_turns", "rescale": "none", "coef": 1.0, "clip_coef": 0.0}
    found = advantages(GAINS, "a2tgpo", scale="none", gamma=0.5, a2tgpo=options)
    check(
        found,
        [
            [0.25 + 2 / 3, 0.5 + 2 / 3, 2 / 3],
            [-1.75 - 1 / 3, -0.5 - 1 / 3, -1 / 3],
            [1.5 - 1 / 3, -1 / 3],
        ],
    )


def test_neighbouring_turns_with_equal_advantages_stay_two_turns() -> None:
    """Every rollout gains alike, so that all turns of a rollout have its outcome's advantage."""
    same = group(*(attempt(3, None, y, (-3.0, -2.0, -1.0)) for y in (1, 0)))
    credit = assign_credit(same, CreditConfig(algorithm="a2tgpo")).trajectories[0]
    assert len(set(credit.advantages)) == 1
    turns = tuple(
        Turn((5, 6), (-0.1, -0.2), "stop", "search", "", feedback_ids=(7,)) for _ in range(2)
    )
    rollout = Trajectory(GroupId("d", "q", 0), 0, Question("q", "?", ("x",), "d"), (1, 2), turns)
    sequence = policy_sequence(rollout, credit.advantages[:2], (0.9, 1.1))
    batch = micro_batches([sequence], [sequence.weights], 99)[0]
    assert batch.segments.tolist() == [0, 0, 1, 1]
    assert batch.clip_scales is not None
    assert batch.clip_scales.tolist() == pytest.approx([0.9, 0.9, 1.1, 1.1])


def test_a_turns_clip_range_reaches_the_loss() -> None:
    """Ratio 1.25 and advantage 1: clipped at 1.2, at 1 + 0.2 x 0.5 and at 1 + 0.2 x 2, which is
    no bound.
    """
    logprobs, zeros = torch.full((3,), 0.2231436, dtype=torch.float64), torch.zeros(3)
    ones, scales = torch.ones(3), torch.tensor([1.0, 0.5, 2.0])
    parts = clipped_policy_loss(
        logprobs, zeros, ones, zeros, None, LossConfig(), clip_scales=scales
    )
    assert parts.total.tolist() == pytest.approx([-1.2, -1.1, -1.25], abs=1e-6)
    assert parts.clipped.tolist() == [True, True, False]
    plain = clipped_policy_loss(logprobs, zeros, ones, zeros, None, LossConfig())
    assert plain.total.tolist() == pytest.approx([-1.2] * 3, abs=1e-6)


def test_a_sequence_without_clip_scales_beside_one_with_them() -> None:
    turns = (Turn((5,), (-0.1,), "stop", "answer", ""),)
    rollout = Trajectory(GroupId("d", "q", 0), 0, Question("q", "?", ("x",), "d"), (1,), turns)
    plain, scaled = policy_sequence(rollout, [1.0]), policy_sequence(rollout, [1.0], [0.7])
    assert micro_batches([plain], [plain.weights], 9)[0].clip_scales is None
    both = micro_batches([plain, scaled], [plain.weights, scaled.weights], 9)[0]
    assert both.clip_scales is not None
    assert sorted(both.clip_scales.tolist()) == pytest.approx([0.7, 1.0])


def test_mig() -> None:
    """Over the running maximum the gains are 0 and 1 (of -3, -3.5, -2), and 1: mean 2/3, std
    0.57735: -1.15470, 0.57735 twice. Outcomes +-0.70711.
    """
    which = group(attempt(3, 2, 1, (-3.0, -3.5, -2.0)), attempt(2, None, 0, (-3.0, -2.0)))
    check(advantages(which, "mig"), [[0.12976, 1.28446, 0.70711], [-0.12976, -0.70711]])
    credit = assign_credit(which, CreditConfig(algorithm="mig"))
    check([one.turn_rewards for one in credit.trajectories], [[0, 1, 1], [1, 0]])


def answers_of(*rollouts: tuple[str | None, float]) -> list[JudgedTrajectory]:
    """Rollouts of one turn with these answers and outcomes."""
    return [
        replace(
            judge(CreditTrajectory(answer, (CreditTurn(None, ""),)), [GOLD], CreditConfig()),
            outcome=outcome,
        )
        for answer, outcome in rollouts
    ]


def test_siop_clusters() -> None:
    """Two rollouts say Paris (r = 1), one Rome (r = 0): 2e and 1 of 2e + 1 = 6.43656. Without eta
    2/3 and 1/3. An answer that is missing or empty is in no cluster.
    """
    rollouts = answers_of(("Rome", 0), ("Paris", 1), (None, 0), ("the paris.", 1), (" ", 1))
    found = clusters_of(rollouts, 1.0, 8)
    assert [name for name, _ in found] == ["Paris", "Rome"]
    assert [q for _, q in found] == pytest.approx([0.84464, 0.15536], abs=1e-5)
    assert [q for _, q in clusters_of(rollouts, 0.0, 8)] == pytest.approx([2 / 3, 1 / 3])
    assert clusters_of(rollouts, 1.0, 1) == [("Paris", 1.0)]
    assert clusters_of(answers_of((None, 0), ("", 1)), 1.0, 8) == []
    # Outcomes of a cluster are averaged: m = 2, r = 1/2 against m = 1, r = 1.
    mixed = clusters_of(answers_of(("x", 1), ("x", 0), ("y", 1)), 2.0, 8)
    assert dict(mixed)["x"] == pytest.approx(2 / (2 + math.e))
    assert [q for _, q in clusters_of(answers_of(("x", 9e3), ("y", 0)), 1.0, 8)] == [1.0, 0.0]
    # Nothing is left of articles and punctuation in the normal form.
    bare = clusters_of(answers_of(("The The", 1), ("the the", 1), ("!", 0)), 0.0, 8)
    assert [q for _, q in bare] == pytest.approx([2 / 3, 1 / 3])


def test_tips_sums_every_gold_answer_once() -> None:
    options = TipsOptions(aliases=2)
    assert options.targets(["Paris", "Paris", "Lutetia", "X"], []) == [("Paris", 1), ("Lutetia", 1)]


def test_siop() -> None:
    """Rewards -0.5, 1.5, 1 and 1, 0: mean 0.6, squares 2.7, std 0.82158: z -1.33888, 1.09545,
    0.48686 and 0.48686, -0.73030; then to go. A constant on all beliefs of a rollout is no gain.
    """
    wanted = [[0.24343, 1.58231, 0.48686], [-0.24343, -0.73030]]
    which = group(attempt(3, 2, 1, (-3.0, -3.5, -2.0)), attempt(2, None, 0, (-3.0, -2.0)))
    check(advantages(which, "siop"), wanted)
    shifted = group(attempt(3, 2, 1, (2.0, 1.5, 3.0)), attempt(2, None, 0, (-9.0, -8.0)))
    check(advantages(shifted, "siop"), wanted)
    separate = advantages(which, "siop", siop={"norm": "separate"})
    check(separate, advantages(which, "igpo", igpo={"norm": "separate"}))


@pytest.mark.parametrize(
    ("belief", "wanted"),
    [
        ("mean", -1.25),  # 3/4 of -1 and 1/4 of -2
        ("sum", -3.0),  # 3/4 of -2 and 1/4 of -6
        ("shares", -1.01815),  # less log(e^-2 + e^-6) = -1.98185
    ],
)
def test_beliefs_in_weighted_answers(belief: str, wanted: float) -> None:
    """Two answers of 2 and 3 tokens with the log-probabilities -2 and -6."""

    class Model:
        """Stands for learner and protocol."""

        def belief_ids(self, prefix: str, answer: str) -> tuple[list[int], list[int]]:
            return [1], [7] * len(answer)

        def logprobs(self, sequences: list[Any]) -> list[list[float]]:
            logs = {2: -1.0, 3: -2.0}
            return [[logs[int(sum(one.weights))] * weight for weight in one.weights]
                    for one in sequences]  # fmt: skip

    question = Question("q", "who?", (GOLD,), "world")
    turn = Turn((5,), (-1.0,), "eos", "answer", "x", answer="x")
    rollouts = [Trajectory(GroupId("world", "q", 0), 0, question, (1, 2), (turn,))]
    model: Any = Model()
    options = SiopOptions(probability=belief)  # type: ignore[arg-type]
    targets = [[("ab", 0.75), ("abc", 0.25)], []]
    found = gold_logprobs([rollouts, rollouts], targets, model, model, options)
    assert found[0] == [[pytest.approx(wanted, abs=1e-5)]]
    assert found[1] == [[0.0]], "no rollout answered"


@pytest.mark.parametrize(
    ("maximum", "rewards"), [("previous", [-0.01, 0.03, 1]), ("running", [0, 0.02, 1])]
)
def test_tips_rewards(maximum: str, rewards: list[float]) -> None:
    """0.02 times -0.5 and 1.5; over the maximum, times 0 and 1."""
    config = CreditConfig(algorithm="tips", tips={"maximum": maximum})
    judged = [judge(attempt(3, 2, 1, (-3.0, -3.5, -2.0)), [GOLD], config)]
    check(list(ALGORITHMS["tips"](judged, config).turn_rewards), [rewards])


def test_probabilities_of_aliases_are_added() -> None:
    assert log_sum([math.log(0.2), math.log(0.3)]) == pytest.approx(math.log(0.5))
    assert log_sum([-2000.0]) == -2000.0
    assert log_sum([-2000.0, -2000.0]) == pytest.approx(-2000 + math.log(2))


@pytest.mark.parametrize("name", ["igpo", "a2tgpo", "mig", "tips", "siop"])
def test_a_teacher_that_is_not_kept_is_refused(name: str) -> None:
    settings = [f"credit.algorithm={name}", f"credit.{name}.teacher=reference"]

    def said(*more: str) -> str:
        return "\n".join(rule_problems(load_config([], [*settings, *more])))

    wanted = f"credit.{name}.teacher: the reference is the frozen starting policy"
    assert wanted in said("loss.log_kl=false")
    for kept in ("loss.log_kl=true", "loss.kl=0.1"):
        assert ".teacher:" not in said(kept)


def test_cw_grpo() -> None:
    """Two searches, of which the second finds the gold: softmax (0.26894, 0.73106) times 2. A
    rollout whose only search finds it, and those below the mean, stay GRPO's.
    """
    right, wrong = 1.09545, -0.73030
    wanted = [
        [right * 0.53788, right * 1.46212, right],
        [wrong] * 4,
        [wrong] * 3,
        [right] * 2,
        [wrong] * 4,
    ]
    check(advantages(MIXED, "cw_grpo"), wanted)


def test_cw_grpo_with_a_sharpness_that_leaves_one_search() -> None:
    right = 1.09545
    found = advantages(MIXED, "cw_grpo", cw_grpo={"sharpness": 1e6})
    check(found[:1], [[0.0, 2 * right, right]])


def test_cw_grpo_counts_every_hit_or_the_first() -> None:
    """Hits at both of two searches: all alike, or the first one alone."""
    twice = CreditTrajectory(
        GOLD, (CreditTurn("a", GOLD), CreditTurn("b", GOLD), CreditTurn(None, ""))
    )
    which = group(twice, attempt(2, None, 0))
    check(advantages(which, "cw_grpo"), [[0.70711] * 3, [-0.70711] * 2])
    first = advantages(which, "cw_grpo", cw_grpo={"useful": "first_hit"})
    check(first, [[0.70711 * 1.46212, 0.70711 * 0.53788, 0.70711], [-0.70711] * 2])


def searched(searches: int, answer: str | None, tokens: int = 1) -> CreditTrajectory:
    turns = [CreditTurn("q", "Nothing.", "", tokens)] * searches
    return CreditTrajectory(answer, (*turns, CreditTurn(None, "", "", tokens)))


@pytest.mark.parametrize(
    ("searches", "answer", "reward"),
    [(1, GOLD, 1.0), (0, GOLD, 0.9), (2, None, -0.1), (0, None, -0.2), (1, "Ada", 2 / 3)],
)
def test_f1_plus(searches: int, answer: str | None, reward: float) -> None:
    config = CreditConfig(outcome="f1_plus")
    assert outcome_reward(searched(searches, answer), [GOLD], config) == pytest.approx(reward)


@pytest.mark.parametrize(
    ("options", "reward"),
    [
        ({"length_penalty": 0.1}, 0.7),
        ({"length_penalty": 0.1, "length_free": 2}, 0.9),
        ({"length_penalty": 0.1, "length_free": 9}, 1.0),
        ({"length_penalty": 0.01, "length_unit": "tokens"}, 0.8),  # 4 turns of 5 tokens
        ({"length_penalty": 0.5}, 0.0),
    ],
)
def test_length_penalty(options: dict[str, float], reward: float) -> None:
    config = CreditConfig(**options)
    assert outcome_reward(searched(3, GOLD, 5), [GOLD], config) == pytest.approx(reward)
    assert outcome_reward(searched(3, "no", 5), [GOLD], config) == 0.0, "failing stays failing"
