"""Which process rolls out which questions of a batch.

static: process r of W takes the questions r, r + W, ... in the order of the batch. dynamic: the
longest expected rollouts come first, and a process whose own questions have all begun begins those
of others. Afterwards every rollout goes to the process that has its question in the static order,
so that nothing that follows depends on who made it.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tspo_cli.config.schema import RolloutConfig
from tspo_cli.data.question import Question
from tspo_cli.retrieval.types import Hit
from tspo_cli.rollout.branch import Branch
from tspo_cli.rollout.records import GroupRecord
from tspo_cli.rollout.trajectory import CallFacts, GroupId, Trajectory, Turn
from tspo_cli.training.core.distributed import gather_json, rank, world_size
from tspo_cli.training.rl.question_batches import BatchQuestion


def is_dynamic(rollout: RolloutConfig) -> bool:
    """Whether processes take questions from each other. auto: with vLLM, whose samples depend on
    the other requests of a batch anyway.
    """
    return rollout.schedule == "dynamic" or (
        rollout.schedule == "auto" and rollout.engine == "vllm"
    )


def static_share(batch: Sequence[BatchQuestion]) -> list[BatchQuestion]:
    """This process's questions in the static order."""
    return list(batch[rank() :: world_size()])


@dataclass
class ExpectedLengths:
    """How many tokens the rollouts of a question had when they were last sampled (their mean)."""

    tokens: dict[tuple[str, str], float] = field(default_factory=dict)

    def learn(self, groups: Sequence[GroupRecord]) -> None:
        """Take the lengths of a step's rollouts, those of all processes."""
        for group in groups:
            lengths = [
                sum(turn["tokens"] for turn in rollout["turns"])
                for rollout in group["trajectories"]
            ]
            if lengths:
                source, question, _ = group["group"]
                self.tokens[str(source), str(question)] = sum(lengths) / len(lengths)

    def longest_first(self, batch: Sequence[BatchQuestion]) -> list[BatchQuestion]:
        """A question that is new counts as the mean of those known; among equals, the longer text
        comes first.
        """
        mean = sum(self.tokens.values()) / max(1, len(self.tokens))

        def key(drawn: BatchQuestion) -> tuple[float, int, int]:
            question = drawn.question
            expected = self.tokens.get((question.data_source, question.id), mean)
            return -expected, -len(question.question), drawn.position

        return sorted(batch, key=key)


class Counter(Protocol):
    """Adds to a number that all processes share, and returns it afterwards (torch's Store)."""

    def add(self, key: str, amount: int, /) -> int: ...


_numbers = itertools.count()
"""Tells the batches of a process group apart: every process makes them in the same order."""


class SharedQuestions:
    """The questions of a batch in one queue for each process, from which any process takes.

    `queues` are the same on every process. A question is taken once: `counter` has the number of
    those taken from each queue.
    """

    def __init__(
        self, queues: Sequence[Sequence[BatchQuestion]], own: int, counter: Counter
    ) -> None:
        self.queues, self.own, self.counter = queues, own, counter
        self.name = f"tspo/questions/{next(_numbers)}"

    def take(self) -> BatchQuestion | None:
        """The next question of this process's queue; then of the queue with the most left. None:
        all are taken.
        """
        drawn = self._next(self.own)
        while drawn is None:
            left = [self._left(queue) for queue in range(len(self.queues))]
            if max(left) <= 0:
                return None
            drawn = self._next(left.index(max(left)))
        return drawn

    def _next(self, queue: int) -> BatchQuestion | None:
        index = self.counter.add(f"{self.name}/{queue}", 1) - 1
        return self.queues[queue][index] if index < len(self.queues[queue]) else None

    def _left(self, queue: int) -> int:
        return len(self.queues[queue]) - self.counter.add(f"{self.name}/{queue}", 0)


def dealt(batch: Sequence[BatchQuestion], processes: int) -> list[list[BatchQuestion]]:
    """One queue for each process, dealt in turns."""
    return [list(batch[start::processes]) for start in range(processes)]


def returned(
    batch: Sequence[BatchQuestion], trajectories: Sequence[Trajectory]
) -> list[Trajectory]:
    """The rollouts of this process's `static_share` of `batch`, in its order, whoever made them.
    Every process calls it with those that it made.
    """
    place = {drawn.group: index for index, drawn in enumerate(batch)}
    processes = world_size()

    def owner(trajectory: Trajectory) -> int:
        return place[trajectory.group] % processes

    kept = [trajectory for trajectory in trajectories if owner(trajectory) == rank()]
    sent = [trajectory for trajectory in trajectories if owner(trajectory) != rank()]
    for part in gather_json([[owner(one), trajectory_record(one)] for one in sent]):
        kept += [trajectory_of(record) for target, record in part if target == rank()]
    return sorted(kept, key=lambda one: (place[one.group], one.sample))


def trajectory_record(trajectory: Trajectory) -> dict[str, Any]:
    """All of a trajectory as JSON; `trajectory_of` gives it back."""
    return dataclasses.asdict(trajectory)


def trajectory_of(record: Mapping[str, Any]) -> Trajectory:
    """The trajectory of a `trajectory_record`, to the bit."""
    question = dict(record["question"])
    for name in ("golden_answers", "supporting_ids"):
        question[name] = tuple(question[name])
    fields = {
        "group": GroupId(*record["group"]),
        "question": Question(**question),
        "prompt_ids": tuple(record["prompt_ids"]),
        "turns": tuple(_turn(turn) for turn in record["turns"]),
        "branch": _branch(record["branch"]),
    }
    return Trajectory(**{**record, **fields})


def _branch(record: Mapping[str, Any] | None) -> Branch | None:
    return None if record is None else Branch(**{**record, "owners": tuple(record["owners"])})


def _turn(record: Mapping[str, Any]) -> Turn:
    fields = {name: tuple(record[name]) for name in ("action_ids", "logprobs", "feedback_ids")}
    hits = tuple(Hit(**hit) for hit in record["hits"])
    call = CallFacts(**record["call"]) if record["call"] is not None else None
    return Turn(**{**record, **fields, "hits": hits, "call": call})
