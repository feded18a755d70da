"""Rewards summed over the turns or tokens that follow."""

from __future__ import annotations

from collections.abc import Sequence


def to_go(rewards: Sequence[float], gamma: float) -> tuple[float, ...]:
    """The discounted sum of the rewards from each turn or token on: R_k = sum over l >= k of
    gamma^(l-k) r_l.
    """
    total = 0.0
    backwards = []
    for reward in reversed(rewards):
        total = reward + gamma * total
        backwards.append(total)
    return tuple(reversed(backwards))
