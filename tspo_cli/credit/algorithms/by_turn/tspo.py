"""TSPO (Ma et al. 2026, arXiv 2601.22776): GRPO, with turn-level advantages in groups whose
outcomes are all wrong.

The turn rewards r_{i,k} are those of FOLR (see `folr.turn_rewards`). Equation in a group without a
correct answer but with a near-miss: A_{i,k} = (r_{i,k} - mean r) / (std r + eps) over all turns of
all trajectories; in the other groups A_i = (y_i - mean y) / (std y + eps), as GRPO. The paper's
abstract fixes the idea and leaves details open; those are the keys U4 to U10 and U13 of [credit].

The population is open too (credit.norm). Over all turns of a group (pooled_turns, the default) a
search is compared with answers, and a group of equal near-misses pushes answering down. A2TGPO
(arXiv 2605.06200) argues for comparing the turns of the same number: per_turn_index.
"""

from __future__ import annotations

from collections.abc import Sequence

from tspo_cli.credit.algorithms.algorithm import algorithm
from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.folr import trajectory_reward, turn_rewards
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory, group_class
from tspo_cli.credit.normalise import per_trajectory, per_turn_index, pooled_turns


@algorithm()
def tspo(trajectories: Sequence[JudgedTrajectory], config: CreditConfig) -> AlgorithmResult:
    """Turn-level advantages of the FOLR rewards in groups that pass the gate, trajectory-level
    advantages in the others.
    """
    rewards = tuple(turn_rewards(trajectory, config) for trajectory in trajectories)
    is_open = gate_opens(trajectories, config)
    if is_open and config.norm != "trajectory":
        normalise = pooled_turns if config.norm == "pooled_turns" else per_turn_index
        advantages, populations = normalise(rewards, config)
        labels = tuple(f"Turn {index}" for index in range(1, len(populations) + 1))
        return AlgorithmResult(
            rewards,
            advantages,
            "turn",
            populations,
            reason=_reason(trajectories, config, "turn rewards"),
            labels=labels if config.norm == "per_turn_index" else (),
        )
    partial = is_open or config.mixed_reward == "outcome_plus_alpha"
    scores = [
        trajectory_reward(trajectory, config) if partial else trajectory.outcome
        for trajectory in trajectories
    ]
    turns = [trajectory.turns for trajectory in trajectories]
    advantages, populations = per_trajectory(scores, turns, config)
    compared = (
        "trajectory rewards (partial ones for near-misses)"
        if partial
        else "outcomes of whole trajectories"
    )
    return AlgorithmResult(
        rewards, advantages, "trajectory", populations, _reason(trajectories, config, compared)
    )


def gate_opens(trajectories: Sequence[JudgedTrajectory], config: CreditConfig) -> bool:
    """Whether this group uses its turn rewards (U7). An all-correct group does so only if hits are
    rewarded too (U13).
    """
    composition = group_class(trajectories)
    if composition == "all-correct" and config.success_turns != "hit_plus_final":
        return False
    near_miss = any(trajectory.trajectory_class == "near-miss" for trajectory in trajectories)
    opens = {
        "never": False,
        "always": True,
        "any_near_miss": near_miss,
        "all_wrong": composition == "all-wrong with near-miss",
    }
    return opens[config.gate]


def _reason(trajectories: Sequence[JudgedTrajectory], config: CreditConfig, compared: str) -> str:
    state = "open" if gate_opens(trajectories, config) else "closed"
    return (
        f"The gate {config.gate} is {state} for a group that is {group_class(trajectories)}, so "
        f"{compared} count."
    )
