"""Credit methods of 2026 against vectors worked out by hand; the arithmetic stands beside them."""

from __future__ import annotations

import pytest
import torch

from tests.credit.test_algorithms_golden import (
    MIXED,
    TURNS,
    advantages,
    attempt,
    check,
    group,
)
from tspo_cli.config.schema import CreditConfig, LossConfig
from tspo_cli.credit.assign import assign_credit
from tspo_cli.data.question import Question
from tspo_cli.rollout.trajectory import GroupId, Trajectory, Turn
from tspo_cli.training.core.losses import clipped_policy_loss
from tspo_cli.training.core.micro_batches import micro_batches
from tspo_cli.training.core.sequences import policy_sequence


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
