"""A baseline that removes what the number of turns alone adds to the advantages of a group."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

Rows = tuple[tuple[float, ...], ...]


def without_turn_count(advantages: Rows, outcomes: Sequence[float]) -> Rows:
    """The advantages [rollout][turn] with the same mean at every number of turns, for rollouts of
    the same outcome.

    A rollout's mean advantage is m. Every turn of it changes by (mean of m over the rollouts of its
    outcome) - (mean of m over those of them with as many turns). The differences between outcomes,
    between the turns of a rollout, and between rollouts of equal outcome and length stay.
    """
    # Equal values have exactly their mean, so that nothing changes by rounding.
    means = [row[0] if min(row) == max(row) else float(np.mean(row)) for row in advantages]
    by_outcome: dict[float, list[int]] = defaultdict(list)
    for index, outcome in enumerate(outcomes):
        by_outcome[outcome].append(index)
    rows = list(advantages)
    for members in by_outcome.values():
        by_turns: dict[int, list[int]] = defaultdict(list)
        for index in members:
            by_turns[len(rows[index])].append(index)
        if len(by_turns) < 2 or len({means[index] for index in members}) < 2:
            continue
        level = float(np.mean([means[index] for index in members]))
        for same in by_turns.values():
            change = level - float(np.mean([means[index] for index in same]))
            for index in same:
                rows[index] = tuple(value + change for value in rows[index])
    return tuple(rows)
