"""MT-GRPO (Zeng et al. 2025, arXiv 2505.11821): a turn-level advantage beside the outcome's, for
several searches.

The paper has exactly one search: A^T and A^O are standardised over the group, apart; tokens before
the first result get A^O + lambda A^T, those after it A^O; a trajectory without a result gets the
advantage of the merged reward R^T + R^O. Its turn reward is 0.2 per executed search (share of
attempts) + 0.5 where the result holds the gold answer.

mt_turns = "first" is that. mt_turns = "each" (default) carries it to several searches: the j-th
attempt (every turn but an answer) earns 0.2 if it was executed and 0.5 if its result holds the gold
answer, standardised over those trajectories of the group that have a j-th attempt: A_{i,k} = A^O_i
+ lambda A^T_{i,j(k)}; answers get A^O. Nothing is summed over turns, so more turns earn nothing by
themselves. Defaults: lambda 1, eps 1e-4, unbiased; the gold answer is found as credit.match says
(the paper: raw lower case).
"""

from __future__ import annotations

from collections.abc import Sequence

from tspo_cli.config.schema import CreditConfig
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory
from tspo_cli.credit.normalise import per_turn_index, standardise


def mt_grpo(trajectories: Sequence[JudgedTrajectory], config: CreditConfig) -> AlgorithmResult:
    """A^O + lambda A^T at searches, A^O at answers, the merged reward's advantage without any
    search.
    """
    outcomes = [one.outcome for one in trajectories]
    attempts = [_attempt_rewards(one, config) for one in trajectories]
    totals = [
        _trajectory_turn_reward(one, row, config)
        for one, row in zip(trajectories, attempts, strict=True)
    ]
    whole = standardise(outcomes, config)
    merged_rewards = tuple(total + outcome for total, outcome in zip(totals, outcomes, strict=True))
    merged = standardise(merged_rewards, config)
    if config.mt_turns == "first":
        alike = standardise(totals, config)
        turn_level = tuple((value,) * len(row) for value, row in zip(alike, attempts, strict=True))
        populations: tuple[tuple[float, ...], ...] = (tuple(totals),)
    else:
        turn_level, populations = per_turn_index(attempts, config)
    advantages, rewards = [], []
    for place, one in enumerate(trajectories):
        last = _last_credited(one, config)
        extra = [config.mt_coef * value for value in turn_level[place][:last]]
        if last == 0:
            row = [merged[place]] * one.turns
        else:
            row = [whole[place] + value for value in extra] + [whole[place]] * (
                one.turns - len(extra)
            )
        advantages.append(tuple(row))
        earned = [*attempts[place], *[0.0] * (one.turns - len(attempts[place]))]
        earned[-1] += one.outcome
        rewards.append(tuple(earned))
    labels = (
        "Outcomes",
        "Merged rewards",
        *(f"Search {index}" for index in range(1, len(populations) + 1)),
    )
    return AlgorithmResult(
        tuple(rewards),
        tuple(advantages),
        "turn",
        (tuple(outcomes), merged_rewards, *populations),
        reason="MT-GRPO compares outcomes, and searches with searches, each among themselves.",
        labels=labels,
        formula=f"Advantage = A(outcome) + {config.mt_coef:g} A(search) at a search, A(outcome) at "
        "an answer; "
        f"A(merged reward) without any search.",
    )


def _attempt_rewards(one: JudgedTrajectory, config: CreditConfig) -> tuple[float, ...]:
    """The reward of every turn but an answer: a search, or an action that was none (0)."""
    turns = one.trajectory.turns
    attempts = (
        turns[:-1] if turns[-1].query is None and one.trajectory.answer is not None else turns
    )
    return tuple(
        (config.mt_execution + config.mt_hit * float(hit > 0)) if turn.query is not None else 0.0
        for turn, hit in zip(attempts, one.hits, strict=False)
    )


def _trajectory_turn_reward(
    one: JudgedTrajectory, attempts: Sequence[float], config: CreditConfig
) -> float:
    """R^T of a trajectory. first: share of executed attempts, and a hit of the first search. each:
    mean per attempt.
    """
    if not attempts:
        return 0.0
    if config.mt_turns == "each":
        return sum(attempts) / len(attempts)
    turns = one.trajectory.turns[: len(attempts)]
    searches = [index for index, turn in enumerate(turns) if turn.query is not None]
    hit = bool(searches) and one.hits[searches[0]] > 0
    return config.mt_execution * len(searches) / len(attempts) + config.mt_hit * float(hit)


def _last_credited(one: JudgedTrajectory, config: CreditConfig) -> int:
    """The number of leading turns that get a turn-level advantage; 0 without any search."""
    searches = [
        index for index, turn in enumerate(one.trajectory.turns, start=1) if turn.query is not None
    ]
    if not searches:
        return 0
    return searches[0] if config.mt_turns == "first" else one.turns
