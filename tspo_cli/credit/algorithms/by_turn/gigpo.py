"""GiGPO (Feng et al. 2025, arXiv 2505.10978): compare actions that were taken in the same state.

Equation: A = A^E + omega A^S. A^E_i = (y_i - mean y) / F over the group; R_k = sum over l >= k of
gamma^(l-k) r_l with the outcome as the last turn's reward. A step group holds all turns of a
question's rollouts that start from the same anchor state (the question before turn 1, the feedback
of turn k - 1 before turn k), and A^S_k = (R_k - mean R) / F over it; a turn that is alone in its
step group has A^S 0. F is the standard deviation + eps, or 1 with scale = "none".

Defaults: omega 1, gamma 0.95, identical anchor states (similarity 1; the paper's search recipe uses
0.9 of difflib's ratio). Similar states are joined into chains, so that the order of the
trajectories does not matter. The released code counts a trajectory once per turn in A^E, which
favours the outcomes of long trajectories: population = "turn". A discount below 1 makes A^S favour
short trajectories.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import Literal

from pydantic import Field

from tspo_cli.config.sections.section import Section
from tspo_cli.credit.algorithms.algorithm import algorithm, outcomes_last
from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.discounting import to_go
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory
from tspo_cli.credit.normalise import per_trajectory, pooled_turns, standardise


class GigpoOptions(Section):
    """The table [credit.gigpo]."""

    coef: float = Field(1.0, ge=0, description="Weight of the step-level advantage (omega).")
    similarity: float = Field(
        1.0,
        gt=0,
        le=1,
        description="Observations at least this similar are one anchor state. 1: identical ones.",
    )
    population: Literal["trajectory", "turn"] = Field(
        "trajectory",
        description="A trajectory counts once in the group's mean, or once per turn (as released).",
    )


@algorithm(options=GigpoOptions, defaults={"credit.gamma": 0.95})
def gigpo(
    trajectories: Sequence[JudgedTrajectory], config: CreditConfig, options: GigpoOptions
) -> AlgorithmResult:
    """A^E + omega A^S."""
    outcomes = [trajectory.outcome for trajectory in trajectories]
    turns = [trajectory.turns for trajectory in trajectories]
    if options.population == "turn":
        per_turn = [(outcome,) * count for outcome, count in zip(outcomes, turns, strict=True)]
        episode, populations = pooled_turns(per_turn, config)
    else:
        episode, populations = per_trajectory(outcomes, turns, config)
    rewards = outcomes_last(trajectories)
    returns = [to_go(row, config.gamma) for row in rewards]
    states = anchor_states(trajectories, options.similarity)
    advantages = [list(row) for row in episode]
    for members in states:
        step = standardise([returns[index][turn] for index, turn in members], config)
        for (index, turn), value in zip(members, step, strict=True):
            advantages[index][turn] += options.coef * value
    shared = [members for members in states if len(members) > 1]
    return AlgorithmResult(
        rewards,
        tuple(map(tuple, advantages)),
        "turn",
        (
            *populations,
            *(tuple(returns[index][turn] for index, turn in members) for members in shared),
        ),
        reason=(
            f"GiGPO found {len(shared)} {'state' if len(shared) == 1 else 'states'} that several "
            "turns start from."
        ),
        labels=(
            "Outcomes",
            *(f"Returns from state {number}" for number in range(1, len(shared) + 1)),
        ),
        formula=(
            f"Advantage = A(outcome) + {options.coef:g} A(return among turns from the same state)."
        ),
    )


def anchor_states(
    trajectories: Sequence[JudgedTrajectory], similarity: float
) -> list[list[tuple[int, int]]]:
    """The turns as (trajectory, turn), both from 0, grouped by the state that they start from. All
    first turns start from the question.
    """
    by_text: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for index, trajectory in enumerate(trajectories):
        for turn in range(1, trajectory.turns):
            by_text[trajectory.trajectory.turns[turn - 1].feedback].append((index, turn))
    first = [(index, 0) for index in range(len(trajectories))]
    if similarity >= 1:
        return [first, *by_text.values()]
    chains = _chains(list(by_text), similarity)
    return [first, *([member for text in chain for member in by_text[text]] for chain in chains)]


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


def _similar(text: str, other: str, least: float) -> bool:
    first, second = sorted((text, other))  # the ratio depends on the order
    matcher = SequenceMatcher(None, first, second)
    return (
        matcher.real_quick_ratio() >= least
        and matcher.quick_ratio() >= least
        and matcher.ratio() >= least
    )
