"""TSPO (Ma et al. 2026, arXiv 2601.22776): GRPO, with turn-level advantages in groups whose
outcomes are all wrong.

The paper's abstract fixes the idea and leaves details open; those are the options U4 to U10 and U13
of CreditConfig.
"""

from __future__ import annotations

from collections.abc import Sequence

from tspo_cli.config.schema import CreditConfig
from tspo_cli.credit.folr import trajectory_reward, turn_rewards
from tspo_cli.credit.group import AlgorithmResult, JudgedTrajectory, group_class
from tspo_cli.credit.normalise import per_trajectory, per_turn_index, pooled_turns


def tspo(trajectories: Sequence[JudgedTrajectory], config: CreditConfig) -> AlgorithmResult:
    """Turn-level advantages of the FOLR rewards where the gate opens, trajectory-level ones
    elsewhere.
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
    scores = [trajectory_reward(one, config) if partial else one.outcome for one in trajectories]
    advantages, populations = per_trajectory(scores, [one.turns for one in trajectories], config)
    compared = (
        "trajectory rewards (partial ones for near-misses)"
        if partial
        else "outcomes of whole trajectories"
    )
    return AlgorithmResult(
        rewards, advantages, "trajectory", populations, _reason(trajectories, config, compared)
    )


def gate_opens(trajectories: Sequence[JudgedTrajectory], config: CreditConfig) -> bool:
    """Whether this group uses its turn rewards (U7). An all-correct group does so only to reward
    hits too (U13).
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
        f"The gate {config.gate} is {state} for a group that is {group_class(trajectories)}: "
        f"compared are {compared}."
    )
