"""Token-level advantages: generalised advantage estimation over sampled tokens, and KL penalties in
the reward.

Feedback between turns is part of the state and no step of the policy: estimation runs over the
sampled tokens of a trajectory in a row. Values by token have length T, 0 where a token was not
sampled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

AllSum = Callable[[Sequence[float]], list[float]]
Rows = list[list[float]]


def token_rewards(turn_of: Sequence[int], turn_rewards: Sequence[float]) -> list[float]:
    """[T]: the reward of each turn at its last sampled token; `turn_of` [T] has -1 where a token
    was not sampled.
    """
    last = {turn: place for place, turn in enumerate(turn_of) if turn >= 0}
    rewards = [0.0] * len(turn_of)
    for turn, reward in enumerate(turn_rewards):
        if turn in last:
            rewards[last[turn]] = reward
    return rewards


def gae(
    rewards: Sequence[float],
    values: Sequence[float],
    sampled: Sequence[bool],
    gamma: float,
    lam: float,
) -> tuple[list[float], list[float]]:
    """Advantages and returns [T] (Schulman et al. 2016, arXiv 1506.02438, eq. 16).

    delta_t = r_t + gamma V(next sampled) - V_t, A_t = delta_t + gamma lam A(next sampled), R_t =
    A_t + V_t; after the last sampled token V and A are 0.
    """
    advantages, returns = [0.0] * len(rewards), [0.0] * len(rewards)
    next_value = next_advantage = 0.0
    for place in reversed(range(len(rewards))):
        if sampled[place]:
            delta = rewards[place] + gamma * next_value - values[place]
            next_advantage = delta + gamma * lam * next_advantage
            next_value = values[place]
            advantages[place], returns[place] = next_advantage, next_advantage + values[place]
    return advantages, returns


def kl_to_go(penalties: Sequence[float]) -> list[float]:
    """[T]: the sum of the penalties from each token on."""
    total, sums = 0.0, []
    for penalty in reversed(penalties):
        total += penalty
        sums.append(total)
    return sums[::-1]


def whiten(
    rows: Sequence[Sequence[float]], sampled: Sequence[Sequence[bool]], eps: float, all_sum: AllSum
) -> Rows:
    """(x - mean) / (std + eps) with the unbiased std over the sampled tokens of all processes; 0
    elsewhere.
    """
    flat = [
        value
        for row, mask in zip(rows, sampled, strict=True)
        for value, one in zip(row, mask, strict=True)
        if one
    ]
    count, total = all_sum([len(flat), math.fsum(flat)])
    mean = total / max(count, 1)
    squares = all_sum([math.fsum((value - mean) ** 2 for value in flat)])[0]
    deviation = math.sqrt(squares / max(count - 1, 1))
    scale = 0.0 if deviation <= 1e-12 * max(1.0, abs(mean)) else 1.0 / (deviation + eps)
    return [
        [(value - mean) * scale if one else 0.0 for value, one in zip(row, mask, strict=True)]
        for row, mask in zip(rows, sampled, strict=True)
    ]
