"""Which rollouts of a question branch, where, and how many: trees whose rollouts share turns.

A tree begins with a whole rollout of its own. Once all rollouts of a question have ended, some of
their turns are expanded: a new rollout takes over the turns before such a turn, passages included,
and samples the rest anew. Then the next turns are chosen, until the budget is used. A turn can be
expanded if a search precedes it.

Choices depend on the rollouts of the question and on the experiment's seed alone: there is no state
between steps, so that a resumed run continues exactly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from tspo_cli.rollout.agent import Task
from tspo_cli.rollout.branch import Branch
from tspo_cli.rollout.trajectory import GroupId, Trajectory, Turn, request_seed

Branching = Literal["none", "random", "uncertain", "after_search"]


@dataclass(frozen=True, slots=True)
class TreeSettings:
    """How trees grow; see the section [tree] of an experiment for the meaning of the names.

    `group_size` is the number of rollouts that a question would have without trees, `seed` that of
    the experiment.
    """

    branching: Branching
    group_size: int
    seed: int
    roots: int = 2
    turns: int = 2
    branches: int = 1
    budget: Literal["tokens", "rollouts"] = "tokens"
    max_rollouts: int = 0
    entropy_tokens: int = 0
    least_gain: float = 0.0


@dataclass(frozen=True, slots=True)
class Place:
    """A turn that can be expanded: number `turn` (from 0) of `rollout`. `uncertainty` is what turns
    are ranked by: nats per token.
    """

    rollout: Trajectory
    turn: int
    uncertainty: float

    @property
    def key(self) -> tuple[int, int]:
        """The turn's identity in the group."""
        return self.rollout.sample, self.turn

    @property
    def context(self) -> tuple[int, int]:
        """The identity of the turn before it, which a new rollout would begin with."""
        return self.rollout.path[self.turn - 1], self.turn - 1

    @property
    def cost(self) -> int:
        """Tokens that its own rollout sampled from it on: what a new one is expected to cost."""
        return sampled_tokens(self.rollout.turns[self.turn :])


@dataclass(slots=True)
class _Growth:
    """The trees of a question: its ended rollouts by number, how many still run, and the turns that
    were expanded.
    """

    running: int
    rollouts: list[Trajectory] = field(default_factory=list)
    expanded: set[tuple[int, int]] = field(default_factory=set)
    rounds: int = 0


@dataclass
class Forest:
    """The trees of a step's questions. `grow` is told of every rollout that has ended."""

    settings: TreeSettings
    groups: dict[GroupId, _Growth] = field(default_factory=dict)

    def grow(self, trajectory: Trajectory) -> list[Task]:
        """The rollouts to begin now that `trajectory` has ended; none while others of its question
        still run.
        """
        growth = self.groups.setdefault(trajectory.group, _Growth(self.settings.roots))
        growth.rollouts.append(trajectory)
        growth.running -= 1
        if growth.running:
            return []
        growth.rollouts.sort(key=lambda rollout: rollout.sample)
        tasks = self._next_round(growth)
        growth.running = len(tasks)
        return tasks

    def _next_round(self, growth: _Growth) -> list[Task]:
        settings, rollouts = self.settings, growth.rollouts
        growth.rounds += 1
        room = _Room(settings, rollouts)
        places = candidates(rollouts, settings)
        tasks: list[Task] = []
        for place in self._chosen(places, growth):
            for _ in range(settings.branches):
                if not room.reserve(place.cost):
                    return tasks
                growth.expanded.add(place.key)
                tasks.append(self._branch(place, places, len(rollouts) + len(tasks)))
        if not tasks and room.reserve(room.whole):
            tasks.append(self._task(rollouts[0], len(rollouts), Branch(), ()))
        return tasks

    def _chosen(self, places: Sequence[Place], growth: _Growth) -> list[Place]:
        """The turns to expand in this round, best first. `places` are in descending uncertainty."""
        settings = self.settings
        if settings.branching == "random":
            # A context is as likely with one continuation as with several.
            contexts = {place.context: place for place in reversed(places)}
            group = growth.rollouts[0].group
            text = f"{settings.seed}|tree|{'|'.join(map(str, group))}|{growth.rounds}"
            digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
            order = sorted(contexts)
            drawn = np.random.default_rng(int.from_bytes(digest, "big")).permutation(len(order))
            return [contexts[order[index]] for index in drawn[: settings.turns].tolist()]
        fresh = [place for place in places if place.key not in growth.expanded]
        return fresh[: settings.turns]

    def _branch(self, place: Place, places: Sequence[Place], sample: int) -> Task:
        rank = [other.key for other in places].index(place.key) + 1
        branch = Branch(
            place.rollout.path[: place.turn],
            0 if self.settings.branching == "random" else rank,
            len(places),
            place.uncertainty,
        )
        return self._task(place.rollout, sample, branch, place.rollout.turns[: place.turn])

    def _task(
        self, rollout: Trajectory, sample: int, branch: Branch, turns: tuple[Turn, ...]
    ) -> Task:
        return Task(
            rollout.question,
            rollout.group,
            sample,
            rollout.prompt_ids,
            request_seed(self.settings.seed, rollout.group, sample),
            branch=branch,
            shared_turns=turns,
        )


class _Room:
    """What is left of a question's budget. Where whole rollouts sampled nothing, tokens are no
    budget, and rollouts are counted.
    """

    def __init__(self, settings: TreeSettings, rollouts: Sequence[Trajectory]) -> None:
        whole, self.budget = token_budget(rollouts, settings.group_size)
        self.whole = whole
        self.used = float(sum(sampled_tokens(rollout.own_turns) for rollout in rollouts))
        self.by_rollouts = settings.budget == "rollouts" or not whole
        most = settings.max_rollouts or 4 * settings.group_size
        if settings.budget == "rollouts":
            most = settings.group_size
        elif not whole:
            most = min(most, settings.group_size)
        self.left = most - len(rollouts)

    def reserve(self, cost: float) -> bool:
        """Count one more rollout, if it fits. One that is expected to sample `cost` tokens fits if
        it ends nearer to the budget than its lack would.
        """
        fits = self.by_rollouts or self.used + cost / 2 < self.budget
        if fits and self.left > 0:
            self.used += cost
            self.left -= 1
            return True
        return False


def token_budget(rollouts: Iterable[Trajectory], group_size: int) -> tuple[float, float]:
    """The mean number of tokens that a whole rollout (one that began at the question) sampled, and
    what `group_size` of them would. Those that failed or were refused count where all of them did.
    """
    whole = [rollout for rollout in rollouts if not shares_turns(rollout)]
    ended = [rollout for rollout in whole if not _broke_off(rollout)] or whole
    mean = sum(sampled_tokens(rollout.turns) for rollout in ended) / max(len(ended), 1)
    return mean, mean * group_size


def _broke_off(rollout: Trajectory) -> bool:
    return rollout.failed or bool(rollout.refused)


def distinct_turns(rollouts: Iterable[Trajectory]) -> list[Turn]:
    """The turns of a question's rollouts. One that several share is there once, whether or not the
    rollout that it was sampled for is among them.
    """
    found = {
        (owner, number): turn
        for rollout in rollouts
        for number, (owner, turn) in enumerate(zip(rollout.path, rollout.turns, strict=True))
    }
    return list(found.values())


def shares_turns(rollout: Trajectory) -> bool:
    """Whether it took over turns of another rollout."""
    return rollout.branch is not None and bool(rollout.branch.owners)


def sampled_tokens(turns: Iterable[Turn]) -> int:
    """Tokens that the model sampled in these turns."""
    return sum(turn.sampled_tokens for turn in turns)


def candidates(rollouts: Sequence[Trajectory], settings: TreeSettings) -> list[Place]:
    """The turns that can be expanded, the most uncertain first."""
    places = [
        Place(rollout, index, _score(rollout, index, settings))
        for rollout in rollouts
        if not _broke_off(rollout)
        for index in range(max(1, len(rollout.turns) - len(rollout.own_turns)), len(rollout.turns))
        if rollout.turns[index - 1].kind == "search" and rollout.turns[index].action_ids
    ]
    if settings.branching == "after_search":
        places = [place for place in places if place.uncertainty > settings.least_gain]
    return sorted(places, key=lambda place: (-place.uncertainty, place.key))


def _score(rollout: Trajectory, index: int, settings: TreeSettings) -> float:
    found = uncertainty(rollout.turns[index], settings.entropy_tokens)
    if settings.branching == "after_search":
        found -= uncertainty(rollout.turns[0], settings.entropy_tokens)
    return found


def uncertainty(turn: Turn, first: int) -> float:
    """The mean of -log p over the turn's `first` sampled tokens (0: all), in nats.

    It estimates the mean entropy of their distributions from log-probabilities that every engine
    returns. Those are from before top-p and top-k, so that the estimate is not unbiased with them.
    """
    values = turn.logprobs[: first or None]
    return -sum(values) / len(values) if values else 0.0
