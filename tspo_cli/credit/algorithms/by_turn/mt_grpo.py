"""MT-GRPO (Zeng et al. 2025, arXiv 2505.11821): a turn-level advantage is added to the outcome's,
for several searches.

The paper has exactly one search: A^T and A^O are standardised over the group, separately; tokens
before the first result get A^O + lambda A^T, those after it A^O; a trajectory without a result gets
the advantage of the merged reward R^T + R^O. Its turn reward is 0.2 per executed search (share of
attempts) + 0.5 if the result holds the gold answer.

turns = "first" is the paper's rule. turns = "each" (default) extends it to several searches: the
j-th attempt (every turn but an answer) earns 0.2 if it was executed and 0.5 if its result holds the
gold answer, standardised over those trajectories of the group that have a j-th attempt: A_{i,k} =
A^O_i + lambda A^T_{i,j(k)}; answers get A^O. Nothing is summed over turns, so more turns earn
nothing by themselves. Defaults: lambda 1, eps 1e-4, unbiased; credit.match says how the gold answer
is found (the paper: raw lower case).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from tspo_cli.config.sections.section import Section
from tspo_cli.credit.algorithms.algorithm import algorithm
from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory
from tspo_cli.credit.normalise import per_turn_index, standardise


class MtGrpoOptions(Section):
    """The table [credit.mt_grpo]."""

    turns: Literal["each", "first"] = Field(
        "each",
        description="Compare the j-th searches of all trajectories, for each j; or the first only.",
    )
    coef: float = Field(1.0, ge=0, description="Weight of the turn-level advantage (lambda).")
    execution: float = Field(0.2, ge=0, description="Reward of a search that was executed.")
    hit: float = Field(0.5, ge=0, description="Reward of a search that finds a gold answer.")


@algorithm(options=MtGrpoOptions, defaults={"credit.eps": 1e-4})
def mt_grpo(
    trajectories: Sequence[JudgedTrajectory], config: CreditConfig, options: MtGrpoOptions
) -> AlgorithmResult:
    """A^O + lambda A^T at searches, A^O at answers; the advantage of the merged reward in a
    trajectory without a search.
    """
    outcomes = [trajectory.outcome for trajectory in trajectories]
    attempts = [_attempt_rewards(trajectory, options) for trajectory in trajectories]
    totals = [
        _trajectory_turn_reward(trajectory, row, options)
        for trajectory, row in zip(trajectories, attempts, strict=True)
    ]
    whole = standardise(outcomes, config)
    merged_rewards = tuple(total + outcome for total, outcome in zip(totals, outcomes, strict=True))
    merged = standardise(merged_rewards, config)
    if options.turns == "first":
        alike = standardise(totals, config)
        turn_level = tuple((value,) * len(row) for value, row in zip(alike, attempts, strict=True))
        populations: tuple[tuple[float, ...], ...] = (tuple(totals),)
    else:
        turn_level, populations = per_turn_index(attempts, config)
    advantages, rewards = [], []
    for index, trajectory in enumerate(trajectories):
        last = _last_credited(trajectory, options)
        extra = [options.coef * value for value in turn_level[index][:last]]
        if last == 0:
            row = [merged[index]] * trajectory.turns
        else:
            row = [whole[index] + value for value in extra]
            row += [whole[index]] * (trajectory.turns - len(extra))
        advantages.append(tuple(row))
        earned = [*attempts[index], *[0.0] * (trajectory.turns - len(attempts[index]))]
        earned[-1] += trajectory.outcome
        rewards.append(tuple(earned))
    searches = (f"Search {number}" for number in range(1, len(populations) + 1))
    return AlgorithmResult(
        tuple(rewards),
        tuple(advantages),
        "turn",
        (tuple(outcomes), merged_rewards, *populations),
        reason="MT-GRPO compares outcomes, and searches with searches, each among themselves.",
        labels=("Outcomes", "Merged rewards", *searches),
        formula=(
            f"Advantage = A(outcome) + {options.coef:g} A(search) at a search, A(outcome) at an "
            "answer; A(merged reward) without any search."
        ),
    )


def _attempt_rewards(trajectory: JudgedTrajectory, options: MtGrpoOptions) -> tuple[float, ...]:
    """The reward of every turn but an answer: a search, or an action that was none (0)."""
    turns = trajectory.trajectory.turns
    answered = turns[-1].query is None and trajectory.trajectory.answer is not None
    attempts = turns[:-1] if answered else turns
    return tuple(
        (options.execution + options.hit * float(hit > 0)) if turn.query is not None else 0.0
        for turn, hit in zip(attempts, trajectory.hits, strict=False)
    )


def _trajectory_turn_reward(
    trajectory: JudgedTrajectory, attempts: Sequence[float], options: MtGrpoOptions
) -> float:
    """R^T of a trajectory. first: share of executed attempts, and a hit of the first search. each:
    mean per attempt.
    """
    if not attempts:
        return 0.0
    if options.turns == "each":
        return sum(attempts) / len(attempts)
    turns = trajectory.trajectory.turns[: len(attempts)]
    searches = [index for index, turn in enumerate(turns) if turn.query is not None]
    hit = bool(searches) and trajectory.hits[searches[0]] > 0
    return options.execution * len(searches) / len(attempts) + options.hit * float(hit)


def _last_credited(trajectory: JudgedTrajectory, options: MtGrpoOptions) -> int:
    """The number of leading turns that get a turn-level advantage; 0 without any search."""
    searches = [
        number
        for number, turn in enumerate(trajectory.trajectory.turns, start=1)
        if turn.query is not None
    ]
    if not searches:
        return 0
    return searches[0] if options.turns == "first" else trajectory.turns
