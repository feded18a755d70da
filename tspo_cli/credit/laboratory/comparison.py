"""Compare algorithms on the same recorded rollouts: the groups that they learn from, and size and
sign of their advantages by turn.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from tspo_cli.credit.assign import assign_batch
from tspo_cli.credit.credit_section import CreditConfig
from tspo_cli.credit.group import GROUP_CLASSES, CreditTurn, Group, GroupCredit, TrajectoryCredit
from tspo_cli.credit.laboratory.turn_count import TurnCountEffect, TurnCounts

ROLES = (
    "search before the hit",
    "search that hits",
    "search after the hit",
    "search without a hit",
    "right answer",
    "wrong answer, gold seen",
    "wrong answer, gold never seen",
    "neither search nor answer",
)
"""What a turn did. The hit is the first turn whose feedback holds the gold answer."""


@dataclass(frozen=True, slots=True)
class Arm:
    """An algorithm with its options, under the name that tables give it."""

    name: str
    config: CreditConfig


@dataclass(slots=True)
class AdvantageTally:
    """The advantages of some turns: how many are positive and negative, their sum (`total`) and the
    sum of their absolute values (`size`).
    """

    turns: int = 0
    positive: int = 0
    negative: int = 0
    total: float = 0.0
    size: float = 0.0

    def add(self, advantage: float) -> None:
        """Count one turn."""
        self.turns += 1
        self.positive += advantage > 0
        self.negative += advantage < 0
        self.total += advantage
        self.size += abs(advantage)

    def record(self) -> dict[str, Any]:
        """Shares and means of these turns."""
        count = max(self.turns, 1)
        return {
            "turns": self.turns,
            "positive": self.positive / count,
            "negative": self.negative / count,
            "mean": self.total / count,
            "mean_size": self.size / count,
        }


@dataclass(slots=True)
class ArmTally:
    """The advantages of one arm over all groups."""

    groups: int = 0
    learns_from: int = 0
    by_class: dict[str, list[int]] = field(
        default_factory=lambda: {name: [0, 0] for name in GROUP_CLASSES}
    )
    by_turn: dict[int, AdvantageTally] = field(default_factory=lambda: defaultdict(AdvantageTally))
    by_role: dict[str, AdvantageTally] = field(default_factory=lambda: defaultdict(AdvantageTally))

    def record(self) -> dict[str, Any]:
        """`learns_from` is the share of groups with an advantage that is not 0, in all and by
        class.
        """
        every = AdvantageTally()
        for tally in self.by_turn.values():
            every.turns += tally.turns
            every.positive += tally.positive
            every.negative += tally.negative
            every.total += tally.total
            every.size += tally.size
        return {
            "learns_from": self.learns_from / max(self.groups, 1),
            "learns_from_class": {
                name: learnt / count if count else None
                for name, (count, learnt) in self.by_class.items()
            },
            "advantages": every.record(),
            "by_turn": {str(turn): self.by_turn[turn].record() for turn in sorted(self.by_turn)},
            "by_role": {
                role: self.by_role[role].record() for role in ROLES if role in self.by_role
            },
        }


@dataclass(slots=True)
class Disagreement:
    """Two arms on the same turns: how often their advantages have opposite signs (by role in
    `roles`), and how often only one of them is not 0.
    """

    turns: int = 0
    opposite: int = 0
    first_only: int = 0
    second_only: int = 0
    roles: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def add(self, first: float, second: float, role: str) -> None:
        """Count one turn."""
        self.turns += 1
        if first * second < 0:
            self.opposite += 1
            self.roles[role] += 1
        self.first_only += first != 0 and second == 0
        self.second_only += first == 0 and second != 0


@dataclass(frozen=True)
class Comparison:
    """All arms on all groups. `disagreements` has every pair of arms once, in the order of the
    arms. `turns` counts those of every rollout, `shared_turns` those of them that were sampled for
    another rollout of the group.
    """

    steps: tuple[int, ...]
    groups: int
    trajectories: int
    turns: int
    shared_turns: int
    classes: dict[str, int]
    arms: dict[str, ArmTally]
    turn_counts: dict[str, TurnCountEffect | None]
    disagreements: dict[tuple[str, str], Disagreement]

    def record(self) -> dict[str, Any]:
        """The JSON form. Shares are between 0 and 1."""
        return {
            "steps": [min(self.steps), max(self.steps)],
            "groups": self.groups,
            "trajectories": self.trajectories,
            "turns": self.turns,
            "shared_turns": self.shared_turns,
            "group_classes": {name: self.classes[name] / self.groups for name in GROUP_CLASSES},
            "algorithms": {
                name: tally.record() | {"turn_count": effect.record() if effect else None}
                for (name, tally), effect in zip(
                    self.arms.items(), self.turn_counts.values(), strict=True
                )
            },
            "disagreements": [
                {
                    "first": first,
                    "second": second,
                    "opposite": signs.opposite / max(signs.turns, 1),
                    "first_only": signs.first_only / max(signs.turns, 1),
                    "second_only": signs.second_only / max(signs.turns, 1),
                    "opposite_by_role": {
                        role: signs.roles[role] for role in ROLES if role in signs.roles
                    },
                }
                for (first, second), signs in self.disagreements.items()
            ],
        }


def compare(batches: Iterable[tuple[int, Sequence[Group]]], arms: Sequence[Arm]) -> Comparison:
    """Apply every arm to every batch (a step's groups) and count.

    Raises:
        InvalidInputError: an unknown algorithm, or one that needs what texts do not hold (a critic,
        gold log-probs).
    """
    tallies = {arm.name: ArmTally() for arm in arms}
    names = list(tallies)
    pairs = {
        (first, second): Disagreement()
        for index, first in enumerate(names)
        for second in names[index + 1 :]
    }
    steps, groups, trajectories, turns, shared = [], 0, 0, 0, 0
    classes: dict[str, int] = dict.fromkeys(GROUP_CLASSES, 0)
    counts = TurnCounts()
    for step, batch in batches:
        steps.append(step)
        credits = {arm.name: assign_batch(batch, arm.config) for arm in arms}
        for index, group in enumerate(batch):
            by_arm = {name: credits[name][index] for name in names}
            counts.add([by_arm[name] for name in names])
            roles = _roles(group, by_arm[names[0]])
            groups += 1
            trajectories += len(group.trajectories)
            turns += len(roles)
            shared += _shared(group)
            classes[by_arm[names[0]].group_class] += 1
            values = {
                name: [value for judged in by_arm[name].trajectories for value in judged.advantages]
                for name in names
            }
            for name in names:
                _tally(tallies[name], by_arm[name], values[name], roles)
            for (name, other), disagreement in pairs.items():
                for first, second, (_, role) in zip(
                    values[name], values[other], roles, strict=True
                ):
                    disagreement.add(first, second, role)
    effects = counts.effects() or [None] * len(names)
    return Comparison(
        tuple(steps),
        groups,
        trajectories,
        turns,
        shared,
        classes,
        tallies,
        dict(zip(names, effects, strict=True)),
        pairs,
    )


def _shared(group: Group) -> int:
    """Turns that rollouts have in common with earlier ones."""
    nodes = [node for trajectory in group.trajectories for node in enumerate(trajectory.path)]
    return len(nodes) - len(set(nodes))


def _tally(
    tally: ArmTally, credit: GroupCredit, values: Sequence[float], roles: Sequence[tuple[int, str]]
) -> None:
    learns = any(values)
    tally.groups += 1
    tally.learns_from += learns
    counts = tally.by_class[credit.group_class]
    counts[0] += 1
    counts[1] += learns
    for value, (turn, role) in zip(values, roles, strict=True):
        tally.by_turn[turn].add(value)
        tally.by_role[role].add(value)


def _roles(group: Group, credit: GroupCredit) -> list[tuple[int, str]]:
    """(turn from 1, role) of every turn of every trajectory, in order."""
    return [
        (index, _role(turn, index, trajectory.answer, index == len(trajectory.turns), judged))
        for trajectory, judged in zip(group.trajectories, credit.trajectories, strict=True)
        for index, turn in enumerate(trajectory.turns, start=1)
    ]


def _role(
    turn: CreditTurn, index: int, answer: str | None, last: bool, credit: TrajectoryCredit
) -> str:
    first = credit.first_occurrence
    if turn.query is not None:
        if first is None:
            return "search without a hit"
        return (
            "search before the hit"
            if index < first
            else "search that hits"
            if index == first
            else ROLES[2]
        )
    if not last or answer is None:
        return "neither search nor answer"
    if credit.trajectory_class == "success":
        return "right answer"
    return "wrong answer, gold never seen" if first is None else "wrong answer, gold seen"
