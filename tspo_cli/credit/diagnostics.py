"""Metrics of a batch of groups: their composition, first occurrences, and the signal that GRPO
would not have.
"""

from __future__ import annotations

from collections.abc import Sequence

from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.folr import first_occurrence
from tspo_cli.credit.group import GROUP_METRICS, Group, GroupCredit, TrajectoryClass

_TRAJECTORY_NAMES: dict[TrajectoryClass, str] = {
    "success": "success",
    "near-miss": "near_miss",
    "miss": "miss",
}
_LAST_BIN = 5


def group_metrics(credits: Sequence[GroupCredit]) -> dict[str, float]:
    """Shares between 0 and 1; {} for no groups.

    Of all groups: all_correct, mixed, all_wrong_near_miss, all_miss; zero_signal_grpo (equal
    outcomes: plain GRPO learns nothing) and recovered_by_folr (those of them that still have an
    advantage). Of all trajectories: success, near_miss, miss, nonzero_advantage (at some turn).
    Of the trajectories with a first occurrence: first_occurrence_1 to first_occurrence_5_up, and
    first_occurrence_mean (in turns; absent when there is none).
    """
    if not credits:
        return {}
    trajectories = [trajectory for credit in credits for trajectory in credit.trajectories]
    without = [
        credit
        for credit in credits
        if len({trajectory.outcome for trajectory in credit.trajectories}) == 1
    ]
    metrics = {
        name: _share([credit.group_class == label for credit in credits])
        for label, name in GROUP_METRICS.items()
    }
    metrics["zero_signal_grpo"] = len(without) / len(credits)
    metrics["recovered_by_folr"] = sum(credit.level != "none" for credit in without) / len(credits)
    for label, name in _TRAJECTORY_NAMES.items():
        metrics[name] = _share(
            [trajectory.trajectory_class == label for trajectory in trajectories]
        )
    metrics["nonzero_advantage"] = _share(
        [any(trajectory.advantages) for trajectory in trajectories]
    )
    firsts = [
        trajectory.first_occurrence
        for trajectory in trajectories
        if trajectory.first_occurrence is not None
    ]
    if firsts:
        metrics["first_occurrence_mean"] = sum(firsts) / len(firsts)
    for turn in range(1, _LAST_BIN):
        metrics[f"first_occurrence_{turn}"] = _share([first == turn for first in firsts])
    metrics[f"first_occurrence_{_LAST_BIN}_up"] = _share([first >= _LAST_BIN for first in firsts])
    return metrics


def false_positive_rate(groups: Sequence[Group], config: CreditConfig) -> float:
    """Share of trajectories in which the gold answers of the next group's question "occur": the
    matcher's error rate.

    0 for fewer than two groups. Groups with the same gold answers in a row are left out.
    """
    pairs = [
        (group, other.golden_answers)
        for group, other in zip(groups, [*groups[1:], *groups[:1]], strict=True)
        if group.golden_answers != other.golden_answers
    ]
    return _share(
        [
            first_occurrence(trajectory.turns, golds, config)[0] is not None
            for group, golds in pairs
            for trajectory in group.trajectories
        ]
    )


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags) if flags else 0.0
