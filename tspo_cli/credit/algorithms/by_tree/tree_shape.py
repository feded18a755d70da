"""What the trajectories of a group share: nodes are turns, and a turn that several share is one."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from tspo_cli.credit.group import JudgedTrajectory


class Node(NamedTuple):
    """A turn: its number (from 0), and that of the trajectory that it was sampled for."""

    owner: int
    turn: int


def nodes(trajectories: Sequence[JudgedTrajectory]) -> list[tuple[Node, ...]]:
    """The nodes of each trajectory, one per turn. One that shares nothing has nodes of its own."""
    return [
        tuple(
            Node(owner, turn)
            for turn, owner in enumerate(
                trajectory.trajectory.path or (-1 - index,) * trajectory.turns
            )
        )
        for index, trajectory in enumerate(trajectories)
    ]


def members(keys: Sequence[object]) -> list[list[int]]:
    """The indices with equal keys, in the order of their first ones."""
    found: dict[object, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        found[key].append(index)
    return list(found.values())


def is_branched(rows: Sequence[tuple[Node, ...]]) -> bool:
    """Whether any two trajectories share a turn."""
    firsts = [row[0] for row in rows]
    return len(set(firsts)) < len(firsts)


def node_means(rows: Sequence[tuple[Node, ...]], leaves: Sequence[float]) -> dict[Node, float]:
    """For each node the mean of `leaves`, one value per trajectory, over those that have it."""
    found: dict[Node, list[float]] = defaultdict(list)
    for row, value in zip(rows, leaves, strict=True):
        for node in row:
            found[node].append(value)
    return {node: _mean(values) for node, values in found.items()}


def values_of_turns(
    rows: Sequence[tuple[Node, ...]], leaves: Sequence[float], temperature: float
) -> dict[Node, float]:
    """The value of each node: that of the leaf for a last turn, else the mean of its continuations
    with the weights softmax(value / temperature).
    """
    values = {row[-1]: value for row, value in zip(rows, leaves, strict=True)}
    next_of: dict[Node, dict[Node, None]] = defaultdict(dict)
    for row in rows:
        for node, follows in pairwise(row):
            next_of[node][follows] = None
    for node in sorted(next_of, key=lambda node: -node.turn):
        values[node] = _softmax_mean([values[follower] for follower in next_of[node]], temperature)
    return values


def _softmax_mean(values: Sequence[float], temperature: float) -> float:
    if len(set(values)) == 1:  # exactly, so that equal outcomes give exact zeros
        return values[0]
    largest = max(values)
    weights = [math.exp((value - largest) / temperature) for value in values]
    return math.fsum(w * value for w, value in zip(weights, values, strict=True)) / math.fsum(
        weights
    )


def _mean(values: Sequence[float]) -> float:
    return values[0] if len(set(values)) == 1 else math.fsum(values) / len(values)
