"""What the trajectories of a group share: nodes are turns, and a turn that several share is one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
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


def branches(rows: Sequence[tuple[Node, ...]]) -> bool:
    """Whether any two trajectories share a turn."""
    firsts = [row[0] for row in rows]
    return len(set(firsts)) < len(firsts)
