"""Generalised advantage estimation over sampled tokens, against its definition and by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tspo_cli.config.schema import CriticConfig
from tspo_cli.training.rl.returns import advantages_to_go, estimate, gae, token_rewards, whiten


def test_rewards_stand_at_the_last_sampled_token_of_their_turn() -> None:
    assert token_rewards([-1, 0, 0, -1, -1, 1, 1, 1], [0.2, 1.0]) == [0, 0, 0.2, 0, 0, 0, 0, 1.0]
    assert token_rewards([-1, 0, -1], [0.5, 1.0]) == [0, 0.5, 0], (
        "a turn without tokens has no place"
    )


def test_gae_by_hand() -> None:
    """Sampled: tokens 1, 2 and 5. Values 0.5, 0.2, 0.4, reward 1 at the end, gamma 0.9, lambda 0.5.

    delta_5 = 1 - 0.4 = 0.6; delta_2 = 0.9 * 0.4 - 0.2 = 0.16; delta_1 = 0.9 * 0.2 - 0.5 = -0.32;
    A_5 = 0.6, A_2 = 0.16 + 0.45 * 0.6 = 0.43, A_1 = -0.32 + 0.45 * 0.43 = -0.1265.
    """
    sampled = [False, True, True, False, False, True]
    values = [9.0, 0.5, 0.2, 9.0, 9.0, 0.4]
    advantages, returns = gae([0, 0, 0, 0, 0, 1.0], values, sampled, 0.9, 0.5)
    assert advantages == pytest.approx([0, -0.1265, 0.43, 0, 0, 0.6])
    assert returns == pytest.approx([0, 0.3735, 0.63, 0, 0, 1.0])


numbers = st.floats(-2, 2, allow_nan=False)
steps = st.lists(st.tuples(numbers, numbers, st.booleans()), min_size=1, max_size=12)


@given(steps, numbers)
def test_feedback_does_not_matter(rows: list[tuple[float, float, bool]], noise: float) -> None:
    """Leaving out the tokens that were not sampled, or giving them other values, does not change
    the advantages.
    """
    mask = [sampled for _, _, sampled in rows]
    rewards = [reward for reward, _, _ in rows]
    values = [value + noise * (not sampled) for _, value, sampled in rows]
    kept = [(reward, value) for reward, value, sampled in rows if sampled]
    long = gae(rewards, values, mask, 0.95, 0.9)
    short = gae(
        [reward for reward, _ in kept], [value for _, value in kept], [True] * len(kept), 0.95, 0.9
    )
    for long_row, short_row in zip(long, short, strict=True):
        at_sampled = [value for value, sampled in zip(long_row, mask, strict=True) if sampled]
        assert at_sampled == pytest.approx(short_row)
        assert not any(value for value, sampled in zip(long_row, mask, strict=True) if not sampled)


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=8))
def test_with_lambda_1_returns_are_the_sums_of_rewards(rows: list[tuple[float, float]]) -> None:
    rewards, values = [reward for reward, _ in rows], [value for _, value in rows]
    advantages, returns = gae(rewards, values, [True] * len(rows), 1.0, 1.0)
    assert returns == pytest.approx([sum(rewards[index:]) for index in range(len(rows))], abs=1e-9)
    assert advantages == pytest.approx(
        [total - value for total, value in zip(returns, values, strict=True)], abs=1e-9
    )


def test_whitening_is_over_sampled_tokens() -> None:
    rows = whiten([[5.0, 1.0, 2.0], [3.0]], [[False, True, True], [True]], 0.0, list)
    assert rows == [[0.0, -1.0, 0.0], [1.0]]
    assert whiten([[0.7, 0.7]], [[True, True]], 1e-6, list) == [[0.0, 0.0]]
    assert whiten([], [], 1e-6, list) == []


def test_penalties_are_subtracted_from_their_token_on() -> None:
    assert advantages_to_go([5.0] * 4, [0.0, 1.0, 0.0, 2.0]) == [2.0, 2.0, 3.0, 3.0]


def test_a_turn_earns_the_difference_of_the_values_at_its_borders() -> None:
    """Turns of two tokens: 0.5 - 0.2, and the outcome 1 less 0.5; together 1 - 0.2. With lambda 1
    each earns the outcome less the value before it.
    """
    turns, values = [-1, 0, 0, -1, 1, 1], [9.0, 0.2, 0.9, 9.0, 0.5, 0.1]
    rewards = [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    options = CriticConfig(steps="turn", lam=0.0, target="rewards_to_go")
    advantages, targets = estimate(rewards, values, turns, options)
    assert advantages == pytest.approx([0, 0.3, 0.3, 0, 0.5, 0.5])
    assert targets == [0, 1, 1, 0, 1, 1]
    advantages, targets = estimate(rewards, values, turns, CriticConfig(steps="turn", lam=1.0))
    assert advantages == pytest.approx([0, 0.8, 0.8, 0, 0.5, 0.5])
    assert targets == pytest.approx([0, 1, 1, 0, 1, 1])


def test_turns_are_told_apart_by_number_and_not_by_their_values() -> None:
    """Three neighbours with equal values and rewards are three steps."""
    options = CriticConfig(steps="turn", lam=0.0)
    advantages, _ = estimate([0.0, 0.0, 1.0], [0.5, 0.5, 0.5], [0, 1, 2], options)
    assert advantages == [0.0, 0.0, 0.5]


def test_steps_of_tokens_are_generalised_advantage_estimation() -> None:
    turns, values = [-1, 0, 0, -1, 1], [9.0, 0.3, -0.2, 9.0, 0.7]
    rewards = [0.0, -0.1, 0.0, 0.0, 1.0]
    options = CriticConfig(gamma=0.9, lam=0.8)
    wanted = gae(rewards, values, [turn >= 0 for turn in turns], 0.9, 0.8)
    assert estimate(rewards, values, turns, options) == wanted
