"""Explain the credit of a group in sentences and in a table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.gold_match import is_degenerate
from tspo_cli.credit.group import CreditTurn, Group, GroupCredit


@dataclass(frozen=True, slots=True)
class TurnRow:
    """One turn in a table for people; `trajectory` and `turn` count from 1."""

    trajectory: int
    turn: int
    trajectory_class: str
    action: str
    gold: str
    reward: float
    advantage: float


def credit_record(credit: GroupCredit, config: CreditConfig) -> dict[str, Any]:
    """The JSON form of a group's credit, with the options that led to it."""
    return {
        "class": credit.group_class,
        "algorithm": credit.algorithm,
        "level": credit.level,
        "trajectories": [
            {
                "outcome": judged.outcome,
                "class": judged.trajectory_class,
                "first_occurrence": judged.first_occurrence,
                "turn_rewards": list(judged.turn_rewards),
                "advantages": list(judged.advantages),
                **({"clip_scales": list(judged.clip_scales)} if judged.clip_scales else {}),
            }
            for judged in credit.trajectories
        ],
        "config": config.model_dump(mode="json"),
    }


def turn_rows(group: Group, credit: GroupCredit) -> list[TurnRow]:
    """One row per turn, in order."""
    return [
        TurnRow(
            trajectory=number,
            turn=index,
            trajectory_class=judged.trajectory_class,
            action=_action(turn, trajectory.answer if index == len(trajectory.turns) else None),
            gold=_gold(index, judged.first_occurrence),
            reward=judged.turn_rewards[index - 1],
            advantage=judged.advantages[index - 1],
        )
        for number, (trajectory, judged) in enumerate(
            zip(group.trajectories, credit.trajectories, strict=True), start=1
        )
        for index, turn in enumerate(trajectory.turns, start=1)
    ]


def _action(turn: CreditTurn, answer: str | None) -> str:
    if turn.query is not None:
        return f"search: {turn.query}"
    return "no search, no answer" if answer is None else f"answer: {answer}"


def _gold(turn: int, first: int | None) -> str:
    if first is None:
        return "never found"
    return "first found here" if turn == first else "not yet" if turn < first else "found before"


def sentences(credit: GroupCredit, config: CreditConfig) -> list[str]:
    """Explain the advantages: composition of the group, compared values, mean and standard
    deviation.
    """
    classes = [judged.trajectory_class for judged in credit.trajectories]
    counts = (
        f"{classes.count('success')} success, {classes.count('near-miss')} near-miss, "
        f"{classes.count('miss')} miss"
    )
    lines = [f"The group is {credit.group_class}: {counts}."]
    if credit.reason:
        lines.append(credit.reason)
    names = credit.labels or ("",) * len(credit.populations)
    for name, values in zip(names, credit.populations, strict=True):
        lines.append(
            f"{name}: {_spread(values, config)}" if name else _spread(values, config).capitalize()
        )
    if credit.level == "none":
        lines.append(
            "Nothing differs within what is compared, so every advantage is 0 and the group "
            "teaches nothing."
        )
    elif credit.formula:
        lines.append(credit.formula)
    elif config.scale == "std":
        lines.append(f"Advantage = (reward - mean) / (standard deviation + {config.eps:g}).")
    else:
        lines.append("Advantage = reward - mean.")
    return lines


def golds_left_out(group: Group, config: CreditConfig) -> list[str]:
    """A sentence where gold answers stand in no feedback by rule (U3), else none."""
    golds = [gold for gold in group.golden_answers if is_degenerate(gold)]
    if not golds or config.degenerate != "no_hit":
        return []
    return [
        f"Not looked for in the feedback: {', '.join(golds)}. Yes, no and a single character are "
        'found anywhere and prove nothing (credit.degenerate = "no_hit").'
    ]


def _spread(values: tuple[float, ...], config: CreditConfig) -> str:
    free = int(config.std == "unbiased")
    deviation = float(np.std(values, ddof=free)) if len(values) > 1 else 0.0
    rewards = "reward" if len(values) == 1 else "rewards"
    return (
        f"mean {float(np.mean(values)):.4f}, standard deviation {deviation:.4f} over "
        f"{len(values)} {rewards}."
    )
