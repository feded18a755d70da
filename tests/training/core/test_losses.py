"""Losses against their equations."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tspo_cli.config.schema import LossConfig, OptimizerConfig
from tspo_cli.training.core.losses import clipped_policy_loss, k3, token_shares
from tspo_cli.training.core.micro_batches import micro_batches
from tspo_cli.training.core.optimizer_state import learning_rate
from tspo_cli.training.core.sequences import TrainSequence

numbers = st.floats(-3, 3, allow_nan=False)


def one_token(new: float, old: float, advantage: float, **options: float) -> float:
    tensors = [torch.tensor([value], dtype=torch.float64) for value in (new, old, advantage, 0.0)]
    return float(clipped_policy_loss(*tensors, None, LossConfig(**options)).total)


@given(numbers, numbers, numbers)
def test_clipped_surrogate(new: float, old: float, advantage: float) -> None:
    ratio = math.exp(new - old)
    wanted = -min(ratio * advantage, min(max(ratio, 0.7), 1.4) * advantage)
    assert one_token(new, old, advantage, clip_low=0.3, clip_high=0.4) == pytest.approx(
        wanted, rel=1e-9, abs=1e-12
    )


@given(numbers, numbers)
def test_k3_is_not_negative_and_zero_only_for_equal_policies(
    policy: float, reference: float
) -> None:
    value = float(
        k3(torch.tensor(policy, dtype=torch.float64), torch.tensor(reference, dtype=torch.float64))
    )
    difference = reference - policy
    assert value == pytest.approx(math.exp(difference) - difference - 1, abs=1e-12)
    assert value >= -1e-15


def test_k3_is_unbiased() -> None:
    """Summed over a distribution it gives the KL divergence."""
    policy = torch.tensor([0.1, 0.6, 0.3], dtype=torch.float64)
    reference = torch.tensor([0.3, 0.3, 0.4], dtype=torch.float64)
    wanted = float((policy * (policy / reference).log()).sum())
    assert float((policy * k3(policy.log(), reference.log())).sum()) == pytest.approx(wanted)


def make(weights: list[float]) -> TrainSequence:
    size = len(weights)
    return TrainSequence([1] * size, weights, [0.0] * size, [0.0] * size)


@given(
    st.lists(
        st.lists(st.sampled_from([0.0, 0.1, 1.0]), min_size=1, max_size=6), min_size=1, max_size=5
    )
)
def test_shares_sum_to_one(lists: list[list[float]]) -> None:
    sequences = [make([0.0, *weights]) for weights in lists]
    for aggregation in ("token_mean", "sequence_mean"):
        shares = token_shares(sequences, aggregation, list)
        total = sum(map(sum, shares))
        assert total == pytest.approx(1.0 if any(map(sum, lists)) else 0.0)


def test_aggregations_differ_as_named() -> None:
    long, short = make([0.0, 1.0, 1.0, 1.0]), make([0.0, 1.0])
    assert token_shares([long, short], "token_mean", list) == [[0, 0.25, 0.25, 0.25], [0, 0.25]]
    assert token_shares([long, short], "sequence_mean", list) == [
        [0, 1 / 6, 1 / 6, 1 / 6],
        [0, 0.5],
    ]


@given(st.lists(st.integers(1, 40), min_size=1, max_size=20), st.integers(1, 100))
def test_micro_batches_hold_every_trained_token_once(lengths: list[int], budget: int) -> None:
    sequences = [make([0.0] + [1.0] * length) for length in lengths]
    wanted = sorted(
        (owner, place) for owner, length in enumerate(lengths) for place in range(1, length + 1)
    )
    for packed in (True, False):
        batches = micro_batches(
            sequences, [sequence.weights for sequence in sequences], budget, packed=packed
        )
        found = [
            (batch.members[number], place)
            for batch in batches
            for number, place in zip(batch.sequences.tolist(), batch.indices.tolist(), strict=True)
        ]
        assert sorted(found) == wanted
        for batch in batches:
            assert len(batch.members) == 1 or batch.token_ids.numel() <= budget


def test_schedule() -> None:
    options = OptimizerConfig(lr=1.0, warmup=4, schedule="linear", final_lr=0.1)
    rates = [learning_rate(options, update, 14) for update in range(15)]
    assert rates[:4] == [0.25, 0.5, 0.75, 1.0]
    assert rates[4] == 1.0
    assert rates[9] == pytest.approx(0.55)
    assert rates[14] == pytest.approx(0.1)
    assert learning_rate(OptimizerConfig(lr=2.0), 99, 10) == 2.0
