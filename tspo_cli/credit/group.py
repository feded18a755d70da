"""The input and output of credit assignment: a group of trajectories of one question, and one
advantage per turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from tspo_cli.errors import InvalidInputError
from tspo_cli.rollout.branch import Branch

TrajectoryClass = Literal["success", "near-miss", "miss"]
GroupClass = Literal["all-correct", "mixed", "all-wrong with near-miss", "all-miss"]
GROUP_CLASSES: tuple[GroupClass, ...] = get_args(GroupClass)
GROUP_METRICS: Mapping[GroupClass, str] = {
    "all-correct": "all_correct",
    "mixed": "mixed",
    "all-wrong with near-miss": "all_wrong_near_miss",
    "all-miss": "all_miss",
}
"""The name of each class in metrics: its share is `groups/NAME`."""
Level = Literal["turn", "trajectory", "none"]


@dataclass(frozen=True, slots=True)
class CreditTurn:
    """One turn: its query, what the search gave back, the model's own text where it is known, and
    how many tokens it sampled (1 where that is not known).
    """

    query: str | None
    feedback: str
    generated: str = ""
    tokens: int = 1


@dataclass(frozen=True, slots=True)
class CreditTrajectory:
    """One attempt: the final answer (None if none was given) and K >= 1 turns.

    `gold_logprobs` are K values that only a model can give: the mean log-probability (nats per
    token) of the gold answer before each turn, that is after the prompt and after the feedback of
    every turn but the last. Empty: not measured. `verdict` is that of a judge on the answer, 1 or
    0; None: nobody was asked.

    `path` tells which turns trajectories share: K numbers, for each turn that of the trajectory
    that it was sampled for, from 0. Trajectories with the same number at the same turn have the
    same turns up to it. Empty: it shares nothing. `branch` says how the branch was chosen, if it is
    one.
    """

    answer: str | None
    turns: tuple[CreditTurn, ...]
    gold_logprobs: tuple[float, ...] = ()
    path: tuple[int, ...] = ()
    branch: Branch | None = None
    verdict: float | None = None

    def __post_init__(self) -> None:
        if not self.turns:
            raise InvalidInputError(
                "a trajectory without turns gets no credit; leave it out of the group"
            )
        if self.gold_logprobs and len(self.gold_logprobs) != len(self.turns):
            raise InvalidInputError(
                f"gold_logprobs: expected one per turn ({len(self.turns)}), got "
                f"{len(self.gold_logprobs)}"
            )
        if self.path and len(self.path) != len(self.turns):
            raise InvalidInputError(
                f"path: expected one number per turn ({len(self.turns)}), got {len(self.path)}"
            )
        if self.path and min(self.path) < 0:
            raise InvalidInputError(f"path: expected numbers of 0 or more, got {min(self.path)}")


@dataclass(frozen=True, slots=True)
class Group:
    """G >= 1 attempts at the same question. Those that share turns form trees: what is before a
    shared turn is shared too, and the last turn of each is its own.
    """

    question: str
    golden_answers: tuple[str, ...]
    trajectories: tuple[CreditTrajectory, ...]

    def __post_init__(self) -> None:
        if not self.trajectories:
            raise InvalidInputError(f"group {self.question!r} has no trajectories")
        if not self.golden_answers:
            raise InvalidInputError(f"group {self.question!r} has no golden answers")
        _check_paths(self.trajectories)


def _check_paths(trajectories: Sequence[CreditTrajectory]) -> None:
    """Raises InvalidInputError for paths that form no trees, and shared turns that differ."""
    paths = [trajectory.path for trajectory in trajectories]
    first: dict[tuple[int, int], int] = {}
    for number, path in enumerate(paths):
        for turn, owner in enumerate(path):
            other = first.setdefault((turn, owner), number)
            if paths[other][:turn] != path[:turn]:
                raise InvalidInputError(
                    f"path: trajectories {other + 1} and {number + 1} share turn {turn + 1}, and "
                    "not all turns before it; give turns that differ different numbers"
                )
            if other != number and turn + 1 in (len(path), len(paths[other])):
                raise InvalidInputError(
                    f"path: trajectories {other + 1} and {number + 1} share turn {turn + 1}, the "
                    "last of one of them; give it a number of its own"
                )
            if trajectories[other].turns[turn] != trajectories[number].turns[turn]:
                raise InvalidInputError(
                    f"path: trajectories {other + 1} and {number + 1} share turn {turn + 1}, but "
                    "its query, feedback, text or tokens differ; give turns that differ different "
                    "numbers"
                )


@dataclass(frozen=True, slots=True)
class JudgedTrajectory:
    """A trajectory as an algorithm sees it: outcome y, class, turns K, t* from 1 and the worth of
    that hit (0 to 1).

    `hits` has the worth of the gold answer's occurrence in each of the K turns (0: none),
    `trajectory` the texts.
    """

    outcome: float
    trajectory_class: TrajectoryClass
    turns: int
    first_occurrence: int | None
    hit_worth: float
    hits: tuple[float, ...]
    trajectory: CreditTrajectory


@dataclass(frozen=True, slots=True)
class AlgorithmResult:
    """The return value of an algorithm: K rewards and K advantages for each trajectory, and an
    explanation.

    `clip_scales`, where an algorithm has them, are K factors of the loss's clip range for each
    trajectory. `level` is what was compared, `populations` are the values that were compared with
    each other (none where an algorithm normalises nothing) with `labels` to tell them apart;
    `formula` and `reason` are sentences for people.
    """

    turn_rewards: tuple[tuple[float, ...], ...]
    advantages: tuple[tuple[float, ...], ...]
    level: Literal["turn", "trajectory"]
    populations: tuple[tuple[float, ...], ...] = ()
    reason: str = ""
    labels: tuple[str, ...] = ()
    formula: str = ""
    clip_scales: tuple[tuple[float, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class TrajectoryCredit:
    """The credit of one trajectory. `first_occurrence` counts turns from 1; rewards and advantages
    have length K, and so have `clip_scales`, the factors of the clip range (empty: 1).
    """

    outcome: float
    trajectory_class: TrajectoryClass
    first_occurrence: int | None
    turn_rewards: tuple[float, ...]
    advantages: tuple[float, ...]
    clip_scales: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class GroupCredit:
    """The credit of one group. `level` is "none" when every advantage is 0; for the rest see
    `AlgorithmResult`.
    """

    group_class: GroupClass
    algorithm: str
    level: Level
    trajectories: tuple[TrajectoryCredit, ...]
    populations: tuple[tuple[float, ...], ...] = ()
    reason: str = ""
    labels: tuple[str, ...] = ()
    formula: str = ""


def group_class(trajectories: Sequence[JudgedTrajectory]) -> GroupClass:
    """The composition of a group, by exact match and first occurrence."""
    classes = [trajectory.trajectory_class for trajectory in trajectories]
    if all(name == "success" for name in classes):
        return "all-correct"
    if "success" in classes:
        return "mixed"
    return "all-wrong with near-miss" if "near-miss" in classes else "all-miss"
