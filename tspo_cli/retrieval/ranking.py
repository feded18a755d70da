"""The one order of hits: by falling score, equal scores by ascending position in the corpus."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Ranked = list[tuple[int, float]]
"""(position, score) pairs in the order of hits."""


class Ranker(Protocol):
    """Scores a corpus for queries; what differs between the kinds of index."""

    def rank(self, queries: list[str], k: int) -> list[Ranked]:
        """The best `k` positions for each query."""
        ...


def top_k(scores: NDArray[np.float32], positions: NDArray[np.int64], k: int) -> Ranked:
    """The best `k` of `positions` (ascending) by their `scores` (same shape, [n]).

    Every candidate that ties with the k-th score is looked at, so the cut does not depend on the selection algorithm.
    """
    if len(scores) > k:
        kth = np.partition(scores, len(scores) - k)[len(scores) - k]
        kept = scores >= kth
        scores, positions = scores[kept], positions[kept]
    order = np.argsort(-scores, kind="stable")[:k]
    return list(zip(positions[order].tolist(), scores[order].tolist(), strict=True))
