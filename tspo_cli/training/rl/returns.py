"""Token-level advantages: generalised advantage estimation over sampled tokens, and KL penalties in
the reward.

Feedback between turns is part of the state, not a step of the policy: estimation skips it and goes
from one sampled token to the next. Values by token have length T, 0 where a token was not sampled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tspo_cli.config.schema import CriticConfig
from tspo_cli.credit.discounting import to_go
from tspo_cli.credit.normalise import AllSum, batch_mean_and_scale


def token_rewards(turn_of: Sequence[int], turn_rewards: Sequence[float]) -> list[float]:
    """[T]: the reward of each turn at its last sampled token; `turn_of` [T] is -1 where a token was
    not sampled.
    """
    last = {turn: index for index, turn in enumerate(turn_of) if turn >= 0}
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
    for index in reversed(range(len(rewards))):
        if sampled[index]:
            delta = rewards[index] + gamma * next_value - values[index]
            next_advantage = delta + gamma * lam * next_advantage
            next_value = values[index]
            advantages[index], returns[index] = next_advantage, next_advantage + values[index]
    return advantages, returns


def estimate(
    rewards: Sequence[float],
    values: Sequence[float],
    turn_of: Sequence[int],
    options: CriticConfig,
) -> tuple[list[float], list[float]]:
    """Advantages and the critic's targets [T], 0 where `turn_of` is -1: a token was not sampled.

    The steps are sampled tokens, or turns (critic.steps): then the tokens of a turn have one
    advantage and one target, from the value before its first token.
    """
    by_step: dict[int, list[int]] = {}
    for index, turn in enumerate(turn_of):
        if turn >= 0:
            by_step.setdefault(turn if options.steps == "turn" else index, []).append(index)
    steps = list(by_step.values())
    step_rewards = [math.fsum(rewards[index] for index in tokens) for tokens in steps]
    step_values = [values[tokens[0]] for tokens in steps]
    sampled = [True] * len(steps)
    found, targets = gae(step_rewards, step_values, sampled, options.gamma, options.lam)
    if options.target == "rewards_to_go":
        targets = list(to_go(step_rewards, options.gamma))
    advantages, returns = [0.0] * len(turn_of), [0.0] * len(turn_of)
    for tokens, advantage, target in zip(steps, found, targets, strict=True):
        for index in tokens:
            advantages[index], returns[index] = advantage, target
    return advantages, returns


def advantages_to_go(advantages: Sequence[float], penalties: Sequence[float]) -> list[float]:
    """[T]: each token's advantage less the sum of the penalties from this token on."""
    return [
        advantage - penalty
        for advantage, penalty in zip(advantages, to_go(penalties, 1.0), strict=True)
    ]


def whiten(
    rows: Sequence[Sequence[float]], sampled: Sequence[Sequence[bool]], eps: float, all_sum: AllSum
) -> list[list[float]]:
    """(x - mean) / (std + eps) with the unbiased std over the sampled tokens of all processes; 0
    elsewhere.
    """
    values = [
        (1, value)
        for row, mask in zip(rows, sampled, strict=True)
        for value, is_sampled in zip(row, mask, strict=True)
        if is_sampled
    ]
    mean, scale = batch_mean_and_scale(values, eps, all_sum)
    return [
        [
            (value - mean) * scale if is_sampled else 0.0
            for value, is_sampled in zip(row, mask, strict=True)
        ]
        for row, mask in zip(rows, sampled, strict=True)
    ]
