"""What a step of reinforcement learning leaves in the run directory: its rollouts, and metrics of
them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from tspo_cli.credit.diagnostics import group_metrics
from tspo_cli.credit.group import GroupCredit, TrajectoryCredit
from tspo_cli.rollout.records import GroupRecord, rollout_record
from tspo_cli.training.core.distributed import gather_json
from tspo_cli.training.rl.scoring import ScoredGroup


def step_records(
    groups: Sequence[ScoredGroup], lost: dict[str, float], step: int
) -> tuple[list[GroupRecord], dict[str, float]]:
    """Records of all processes in the order of the batch, and the metrics of the whole step; `lost`
    is among them.
    """
    mine = [
        (group.place, _group_record(group, step), dataclasses.asdict(group.credit))
        for group in groups
    ]
    gathered = sorted((one for part in gather_json(mine) for one in part), key=lambda one: one[0])
    records = [record for _, record, _ in gathered]
    credits = [_credit_from_dict(credit) for _, _, credit in gathered]
    rollouts = [one for record in records for one in record["trajectories"]]
    turns = [turn for one in rollouts for turn in one["turns"]]
    metrics = {
        "reward": mean([one["outcome"] for one in rollouts]),
        **{f"groups/{key}": value for key, value in group_metrics(credits).items()},
        "searches": mean(
            [sum(turn["kind"] == "search" for turn in one["turns"]) for one in rollouts]
        ),
        "turns": mean([len(one["turns"]) for one in rollouts]),
        "response_tokens": mean([sum(turn["tokens"] for turn in one["turns"]) for one in rollouts]),
        "invalid_share": mean([turn["kind"] == "invalid" for turn in turns]),
        "truncated_share": mean([turn["kind"] == "truncated" for turn in turns]),
        "answered_share": mean([one["answer"] is not None for one in rollouts]),
        **lost,
    }
    return records, metrics


def _group_record(group: ScoredGroup, step: int) -> GroupRecord:
    question = group.trajectories[0].question
    return {
        "step": step,
        "group": list(group.trajectories[0].group),
        "type": question.type,
        "question": question.question,
        "golden_answers": list(question.golden_answers),
        "group_class": group.credit.group_class,
        "level": group.credit.level,
        "trajectories": [
            rollout_record(trajectory)
            | (
                {"gold_logprobs": list(group.beliefs[place])}
                if group.beliefs[place:] and group.beliefs[place]
                else {}
            )
            | {
                "outcome": credit.outcome,
                "class": credit.trajectory_class,
                "first_occurrence": credit.first_occurrence,
                "turn_rewards": list(credit.turn_rewards),
                "advantages": list(credit.advantages),
            }
            for place, (trajectory, credit) in enumerate(
                zip(group.trajectories, group.credit.trajectories, strict=True)
            )
        ],
    }


def _credit_from_dict(record: dict[str, Any]) -> GroupCredit:
    trajectories = tuple(TrajectoryCredit(**one) for one in record["trajectories"])
    return GroupCredit(record["group_class"], record["algorithm"], record["level"], trajectories)


def mean(values: Sequence[float]) -> float:
    """The mean, 0 of nothing."""
    return float(sum(values)) / len(values) if values else 0.0
