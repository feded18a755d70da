"""Ratios of turns and sequences, dual clip, value loss and the constant divisor, against their
equations.
"""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tspo_cli.config.schema import LossConfig
from tspo_cli.training.core.losses import (
    clipped_policy_loss,
    clipped_value_loss,
    pool_means,
    token_shares,
)
from tspo_cli.training.core.micro_batches import micro_batches
from tspo_cli.training.core.sequences import TrainSequence

numbers = st.floats(-3, 3, allow_nan=False)


def loss(
    new: list[float], advantages: list[float], pools: list[int] | None, **options: object
) -> torch.Tensor:
    """Per token, with sampling log-probs of 0."""
    logprobs = torch.tensor(new, dtype=torch.float64)
    zeros = torch.zeros_like(logprobs)
    group = None if pools is None else torch.tensor(pools)
    wanted = LossConfig(**options)  # type: ignore[arg-type]
    return clipped_policy_loss(
        logprobs, zeros, torch.tensor(advantages, dtype=torch.float64), zeros, None, wanted, group
    ).total


def test_sequence_ratio_is_the_geometric_mean() -> None:
    """Sequence 0: exp((0.1 + 0.3) / 2) = exp(0.2), clipped to 1.1; sequence 1: exp(-0.05)."""
    found = loss([0.1, 0.3, -0.05], [1.0, 1.0, -2.0], [0, 0, 1], clip_low=0.1, clip_high=0.1)
    assert found.tolist() == pytest.approx([-1.1, -1.1, 2 * math.exp(-0.05)])


def test_turn_ratio_needs_turns() -> None:
    turns = [0, 0, 1]
    found = loss([0.2, 0.0, 0.05], [1.0, 1.0, 1.0], turns, clip_low=0.2, clip_high=0.2)
    assert found.tolist() == pytest.approx([-math.exp(0.1), -math.exp(0.1), -math.exp(0.05)])


@given(st.lists(st.tuples(numbers, st.integers(0, 3)), min_size=1, max_size=8))
def test_pool_means(pairs: list[tuple[float, int]]) -> None:
    values = torch.tensor([value for value, _ in pairs], dtype=torch.float64)
    found = pool_means(values, torch.tensor([pool for _, pool in pairs])).tolist()
    for (_, pool), mean in zip(pairs, found, strict=True):
        members = [value for value, other in pairs if other == pool]
        assert mean == pytest.approx(sum(members) / len(members), abs=1e-12)


def test_gradient_of_a_sequence_ratio_is_that_of_the_mean_log_probability() -> None:
    """GSPO's eq. 10 at the policy that sampled: A / |y| for every token of the sequence."""
    logprobs = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    zeros = torch.zeros(3, dtype=torch.float64)
    total = clipped_policy_loss(
        logprobs,
        zeros,
        torch.full((3,), 2.0),
        zeros,
        None,
        LossConfig(),
        torch.zeros(3, dtype=torch.long),
    ).total
    (total.sum() / 3).backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == pytest.approx([-2 / 3] * 3)


@given(numbers, numbers)
def test_dual_clip(new: float, advantage: float) -> None:
    ratio = math.exp(new)
    plain = -min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
    wanted = min(plain, -1.5 * advantage) if advantage < 0 else plain
    assert loss([new], [advantage], None, dual_clip=1.5).tolist() == pytest.approx(
        [wanted], rel=1e-9, abs=1e-12
    )


@given(numbers, numbers, numbers)
def test_value_loss(value: float, old: float, target: float) -> None:
    tensors = [torch.tensor([number], dtype=torch.float64) for number in (value, old, target)]
    near = old + min(max(value - old, -0.5), 0.5)
    wanted = 0.5 * max((value - target) ** 2, (near - target) ** 2)
    assert clipped_value_loss(*tensors, 0.5).tolist() == pytest.approx([wanted], abs=1e-12)
    assert clipped_value_loss(*tensors, 0.0).tolist() == pytest.approx(
        [0.5 * (value - target) ** 2], abs=1e-12
    )


def make(weights: list[float], turns: list[int]) -> TrainSequence:
    size = len(weights)
    return TrainSequence([1] * size, weights, [0.0] * size, [0.0] * size, turns)


def test_sequence_sum_divides_by_a_constant() -> None:
    long, short = make([0.0, 1.0, 1.0, 1.0], []), make([0.0, 1.0], [])
    none = make([0.0, 0.0], [])
    shares = token_shares([long, short, none], "sequence_sum", list, 10)
    assert shares == [[0, 0.05, 0.05, 0.05], [0, 0.05], [0, 0]]


def test_micro_batches_number_sequences_and_turns() -> None:
    first, second = make([0, 1, 1, 0, 1], [-1, 0, 0, -1, 1]), make([0, 1, 0, 1], [-1, 0, -1, 2])
    batch = micro_batches([first, second], [first.weights, second.weights], 100)[0]
    assert batch.sequences.tolist() == [0, 0, 0, 1, 1]
    assert batch.segments.tolist() == [0, 0, 1, 2, 3]
