"""What a step of reinforcement learning writes to the run directory: its rollouts, and metrics of
them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from tspo_cli.config.schema import Config
from tspo_cli.credit.diagnostics import group_metrics
from tspo_cli.credit.group import GroupCredit, TrajectoryCredit
from tspo_cli.rollout.records import GroupRecord, RolloutRecord, distinct_turns_of, rollout_record
from tspo_cli.rollout.trajectory import Trajectory
from tspo_cli.rollout.trees import distinct_turns, sampled_tokens, shares_turns, token_budget
from tspo_cli.training.core.distributed import gather_json
from tspo_cli.training.rl.scoring import ScoredGroup


def step_records(
    groups: Sequence[ScoredGroup], lost: dict[str, float], step: int, config: Config
) -> tuple[list[GroupRecord], dict[str, float]]:
    """The groups of all processes as records, in the order of the batch, and the metrics of the
    whole step; the shares of `lost` rollouts are among them.
    """
    entries = [
        (group.position, _group_record(group, step, config), dataclasses.asdict(group.credit))
        for group in groups
    ]
    gathered = [entry for part in gather_json(entries) for entry in part]
    gathered.sort(key=lambda entry: entry[0])
    records = [record for _, record, _ in gathered]
    credits = [_credit_from_dict(credit) for _, _, credit in gathered]
    rollouts = [rollout for record in records for rollout in record["trajectories"]]
    turns = [turn for rollout in rollouts for turn in rollout["turns"]]
    turns_of = [rollout["turns"] for rollout in rollouts]
    metrics = {
        "reward": mean([rollout["outcome"] for rollout in rollouts]),
        **{f"groups/{key}": value for key, value in group_metrics(credits).items()},
        "searches": mean([sum(turn["kind"] == "search" for turn in row) for row in turns_of]),
        "turns": mean([len(row) for row in turns_of]),
        "response_tokens": mean([sum(turn["tokens"] for turn in row) for row in turns_of]),
        "invalid_share": mean([turn["kind"] == "invalid" for turn in turns]),
        "truncated_share": mean([turn["kind"] == "truncated" for turn in turns]),
        "answered_share": mean([rollout["answer"] is not None for rollout in rollouts]),
        **lost,
    }
    return records, metrics


def with_failed(
    records: Sequence[GroupRecord], trajectories: Sequence[Trajectory], step: int
) -> list[GroupRecord]:
    """The records of `step_records`, with the rollouts of all processes that failed. They have no
    credit. A question of which every rollout failed has a record of its own, at the end.
    """
    lost = [
        (_question_record(trajectory, step), rollout_record(trajectory))
        for trajectory in trajectories
        if trajectory.failed
    ]
    result = list(records)
    by_group = {tuple(record["group"]): index for index, record in enumerate(result)}
    for part in gather_json(lost):
        for question, rollout in part:
            index = by_group.setdefault(tuple(question["group"]), len(result))
            if index == len(result):
                result.append(question)
            group = result[index]
            result[index] = {**group, "failed": [*group.get("failed", []), rollout]}
    return result


def _question_record(trajectory: Trajectory, step: int) -> GroupRecord:
    """The record of a group without rollouts."""
    question = trajectory.question
    return {
        "step": step,
        "group": list(trajectory.group),
        "type": question.type,
        "question": question.question,
        "golden_answers": list(question.golden_answers),
        "group_class": None,
        "level": "none",
        "trajectories": [],
    }


def tree_metrics(records: Sequence[GroupRecord]) -> dict[str, float]:
    """Means over the questions of a step whose rollouts branch, and of which a whole one is left;
    {} without trees.

    tree/rollouts, tree/branches (rollouts that share turns), tree/sampled_tokens, tree/flat_tokens
    (see `TreeRecord`), tree/searches (shared ones counted once), tree/shared_share (of the tokens
    of all rollouts, those that were sampled for another one).
    """
    records = [record for record in records if "tree" in record]
    trees = [record["tree"] for record in records]
    if not trees:
        return {}
    rollouts = [rollout for record in records for rollout in record["trajectories"]]
    whole = sum(turn["tokens"] for rollout in rollouts for turn in rollout["turns"])
    distinct = [turn for record in records for turn in distinct_turns_of(record["trajectories"])]
    own = sum(turn["tokens"] for turn in distinct)
    return {
        "tree/rollouts": len(rollouts) / len(trees),
        "tree/branches": sum("branch" in rollout for rollout in rollouts) / len(trees),
        "tree/sampled_tokens": mean([tree["sampled_tokens"] for tree in trees]),
        "tree/flat_tokens": mean([tree["flat_tokens"] for tree in trees]),
        "tree/searches": sum(turn["kind"] == "search" for turn in distinct) / len(trees),
        "tree/shared_share": 1 - own / max(whole, 1),
    }


def _group_record(group: ScoredGroup, step: int, config: Config) -> GroupRecord:
    record = _scored_record(group, step)
    rollouts = group.trajectories
    if config.tree.grows and not all(map(shares_turns, rollouts)):
        record["tree"] = {
            "sampled_tokens": sampled_tokens(distinct_turns(rollouts)),
            "flat_tokens": token_budget(rollouts, config.rollout.group_size)[1],
        }
    return record


def _scored_record(group: ScoredGroup, step: int) -> GroupRecord:
    first = group.trajectories[0]
    gold_logprobs = group.gold_logprobs or ((),) * len(group.trajectories)
    return {
        "step": step,
        "group": list(first.group),
        "type": first.question.type,
        "question": first.question.question,
        "golden_answers": list(first.question.golden_answers),
        "group_class": group.credit.group_class,
        "level": group.credit.level,
        "trajectories": [
            _rollout_record(trajectory, credit, logprobs)
            for trajectory, credit, logprobs in zip(
                group.trajectories, group.credit.trajectories, gold_logprobs, strict=True
            )
        ],
    }


def _rollout_record(
    trajectory: Trajectory, credit: TrajectoryCredit, gold_logprobs: Sequence[float]
) -> RolloutRecord:
    record = rollout_record(trajectory)
    if gold_logprobs:
        record["gold_logprobs"] = list(gold_logprobs)
    record["outcome"] = credit.outcome
    record["class"] = credit.trajectory_class
    record["first_occurrence"] = credit.first_occurrence
    record["turn_rewards"] = list(credit.turn_rewards)
    record["advantages"] = list(credit.advantages)
    if credit.clip_scales:
        record["clip_scales"] = list(credit.clip_scales)
    return record


def _credit_from_dict(record: dict[str, Any]) -> GroupCredit:
    trajectories = tuple(TrajectoryCredit(**trajectory) for trajectory in record["trajectories"])
    return GroupCredit(record["group_class"], record["algorithm"], record["level"], trajectories)


def mean(values: Sequence[float]) -> float:
    """The mean, 0 of nothing."""
    return float(sum(values)) / len(values) if values else 0.0
