"""First-occurrence latent rewards (FOLR): a partial reward for the turn where the gold answer first
appears.

This is the rule of TSPO (arXiv 2601.22776) as far as its abstract states it. The open choices are
keys of [credit] (U1 to U6).
"""

from __future__ import annotations

from collections.abc import Sequence

from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.discounting import to_go
from tspo_cli.credit.gold_match import contains_answer, exact_match, is_degenerate
from tspo_cli.credit.group import CreditTrajectory, CreditTurn, JudgedTrajectory, TrajectoryClass
from tspo_cli.credit.outcome import outcome_reward


def judge(
    trajectory: CreditTrajectory, golds: Sequence[str], config: CreditConfig
) -> JudgedTrajectory:
    """Outcome, class and occurrences of one trajectory. Success means an exact match, whichever
    outcome is trained.
    """
    hits = turn_hits(trajectory.turns, golds, config)
    first, worth = next(
        ((index, hit) for index, hit in enumerate(hits, start=1) if hit), (None, 0.0)
    )
    success = exact_match(trajectory.answer, golds)
    name: TrajectoryClass = "success" if success else "near-miss" if first is not None else "miss"
    return JudgedTrajectory(
        outcome=outcome_reward(trajectory, golds, config, found=first is not None),
        trajectory_class=name,
        turns=len(trajectory.turns),
        first_occurrence=first,
        hit_worth=worth,
        hits=hits,
        trajectory=trajectory,
    )


def first_occurrence(
    turns: Sequence[CreditTurn], golds: Sequence[str], config: CreditConfig
) -> tuple[int | None, float]:
    """The first turn (from 1) with a gold answer and the worth of that hit; (None, 0.0) when there
    is none.
    """
    hits = enumerate(turn_hits(turns, golds, config), start=1)
    return next(((index, worth) for index, worth in hits if worth), (None, 0.0))


def turn_hits(
    turns: Sequence[CreditTurn], golds: Sequence[str], config: CreditConfig
) -> tuple[float, ...]:
    """The worth of the gold answer in each turn: 1, or 0 without one. It is 0.5 if only degenerate
    gold answers occur and credit.degenerate is "half" (U3).
    """
    plain = [gold for gold in golds if config.degenerate == "as_is" or not is_degenerate(gold)]
    halves = [gold for gold in golds if config.degenerate == "half" and is_degenerate(gold)]

    def worth(turn: CreditTurn) -> float:
        texts = _sources(turn, config.hit_source)
        if any(contains_answer(text, plain, config.match) for text in texts):
            return 1.0
        return 0.5 if any(contains_answer(text, halves, config.match) for text in texts) else 0.0

    return tuple(map(worth, turns))


def _sources(turn: CreditTurn, hit_source: str) -> tuple[str, ...]:
    if hit_source == "either":
        return turn.feedback, turn.generated
    return (turn.feedback if hit_source == "retrieved" else turn.generated,)


def turn_rewards(trajectory: JudgedTrajectory, config: CreditConfig) -> tuple[float, ...]:
    """The K rewards of one trajectory, for a hit at turn t* of worth w (1 or 0.5):

    prefix       w alpha at every turn up to t*
    point        w alpha at t*
    point_to_go  sum of later point rewards, discounted: gamma^(t*-k) w alpha at turn k up to t*

    A success earns its outcome at every turn (all_ones), at its last turn (final_only), or there in
    addition to the hit (hit_plus_final); point_to_go carries that final reward backwards as well. A
    miss earns nothing.
    """
    success = trajectory.trajectory_class == "success"
    turns = trajectory.turns
    if success and config.success_turns == "all_ones":
        return (trajectory.outcome,) * turns
    rewards = [0.0] * turns
    if trajectory.first_occurrence is not None and (
        not success or config.success_turns == "hit_plus_final"
    ):
        start = 1 if config.turn_reward == "prefix" else trajectory.first_occurrence
        for turn in range(start, trajectory.first_occurrence + 1):
            rewards[turn - 1] = trajectory.hit_worth * config.alpha
    if success:
        rewards[-1] += trajectory.outcome
    return to_go(rewards, config.gamma) if config.turn_reward == "point_to_go" else tuple(rewards)


def trajectory_reward(trajectory: JudgedTrajectory, config: CreditConfig) -> float:
    """alpha (times the worth of the hit) for a near-miss, else the outcome."""
    if trajectory.trajectory_class == "near-miss":
        return trajectory.hit_worth * config.alpha
    return trajectory.outcome
