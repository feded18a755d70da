"""How a rollout of a tree began: what rollouts and credit both need to know of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Branch:
    """How a rollout of a tree began.

    `owners` has, for each of its first turns that it shares with others, the number of the rollout
    that sampled it; it is empty for a rollout that began at the question. The first turn of its own
    was chosen as number `rank` (from 1, the largest `uncertainty` first; 0: it was drawn at random)
    of `candidates` turns; `uncertainty` is in nats per token (see `rollout/trees.py`).
    """

    owners: tuple[int, ...] = ()
    rank: int = 0
    candidates: int = 0
    uncertainty: float = 0.0
