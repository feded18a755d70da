"""GiGPO (Feng et al. 2025, arXiv 2505.10978): actions taken in the same state are compared with
each other.

Equation: A = A^E + omega A^S. A^E_i = (y_i - mean y) / F over the group; R_k = sum over l >= k of
gamma^(l-k) r_l with the outcome as the last turn's reward; a step group is all turns of a
question's rollouts that start from the same anchor state (the question before turn 1, the feedback
of turn k - 1 before turn k), A^S_k = (R_k - mean R) / F over it; alone in its step group a turn has
A^S 0. F is the standard deviation + eps, or 1 with scale = "none". Defaults: omega 1, gamma 0.95,
identical anchors (gigpo_similarity 1; the search recipe uses 0.9 of difflib's ratio). Similar
states are joined into chains, so that the order of the trajectories does not matter. The released
code counts a trajectory once per turn in A^E, which favours outcomes of long trajectories:
gigpo_population = "turn". A discount below 1 makes A^S favour short trajectories.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from difflib import SequenceMatcher

from tspo_cli.config.schema import CreditConfig
from tspo_cli.credit.algorithms.algorithm import outcomes_last
from tspo_cli.credit.discounting import to_go
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory
from tspo_cli.credit.normalise import per_trajectory, pooled_turns, standardise


def gigpo(trajectories: Sequence[JudgedTrajectory], config: CreditConfig) -> AlgorithmResult:
    """A^E + omega A^S."""
    outcomes = [one.outcome for one in trajectories]
    if config.gigpo_population == "turn":
        episode, populations = pooled_turns(
            [(one.outcome,) * one.turns for one in trajectories], config
        )
    else:
        episode, populations = per_trajectory(outcomes, [one.turns for one in trajectories], config)
    rewards = outcomes_last(trajectories)
    returns = [to_go(row, config.gamma) for row in rewards]
    states = anchor_states(trajectories, config.gigpo_similarity)
    advantages = [list(row) for row in episode]
    for members in states:
        step = standardise([returns[place][turn] for place, turn in members], config)
        for (place, turn), value in zip(members, step, strict=True):
            advantages[place][turn] += config.gigpo_coef * value
    shared = [members for members in states if len(members) > 1]
    return AlgorithmResult(
        rewards,
        tuple(map(tuple, advantages)),
        "turn",
        (
            *populations,
            *(tuple(returns[place][turn] for place, turn in members) for members in shared),
        ),
        reason=f"GiGPO found {len(shared)} states that several turns start from.",
        labels=(
            "Outcomes",
            *(f"Returns from state {index}" for index in range(1, len(shared) + 1)),
        ),
        formula=(
            f"Advantage = A(outcome) + {config.gigpo_coef:g} A(return among turns from the "
            "same state)."
        ),
    )


def anchor_states(
    trajectories: Sequence[JudgedTrajectory], similarity: float
) -> list[list[tuple[int, int]]]:
    """The turns as (trajectory, turn), both from 0, by the state that they start from. The first
    turns share one.
    """
    by_text: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for place, one in enumerate(trajectories):
        for turn in range(1, one.turns):
            by_text[one.trajectory.turns[turn - 1].feedback].append((place, turn))
    first = [(place, 0) for place in range(len(trajectories))]
    if similarity >= 1:
        return [first, *by_text.values()]
    return [
        first,
        *(
            [at for text in chain for at in by_text[text]]
            for chain in _chains(list(by_text), similarity)
        ),
    ]


def _chains(texts: list[str], similarity: float) -> list[list[str]]:
    """Connected components of "at least this similar"."""
    left, chains = sorted(texts), []
    while left:
        chain, border = [], [left.pop(0)]
        while border:
            text = border.pop()
            chain.append(text)
            near = [other for other in left if _similar(text, other, similarity)]
            left = [other for other in left if other not in near]
            border += near
        chains.append(chain)
    return chains


def _similar(one: str, other: str, least: float) -> bool:
    first, second = sorted((one, other))  # the ratio depends on the order
    matcher = SequenceMatcher(None, first, second)
    return (
        matcher.real_quick_ratio() >= least
        and matcher.quick_ratio() >= least
        and matcher.ratio() >= least
    )
