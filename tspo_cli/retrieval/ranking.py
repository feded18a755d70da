"""The order of hits: falling score, then ascending position in the corpus (or ascending id)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tspo_cli.errors import InvalidInputError

Ranked = list[tuple[int, float]]
"""(position, score) pairs in the order of hits."""


class Ranker(Protocol):
    """Ranks the passages of a corpus for queries. Each kind of index has its own ranker."""

    def rank(self, queries: list[str], k: int) -> list[Ranked]:
        """The best `k` positions for each query."""
        ...


_BLOCKS_PER_HIT = 32


def check_finite(scores: NDArray[np.float32]) -> None:
    """Refuse the scores of a damaged index, which would hide its passages.

    Raises:
        InvalidInputError: a score is NaN or infinite.
    """
    if not np.isfinite(scores).all():
        raise InvalidInputError(
            "the index gives scores that are no numbers; it is damaged: build it again"
        )


def top_k(
    scores: NDArray[np.float32],
    positions: NDArray[np.int64],
    k: int,
    id_of: Callable[[int], str] | None = None,
) -> Ranked:
    """The best `k` of `positions` (ascending, [n]) by their `scores` [n].

    Equal scores are ordered by `id_of` the position if that is given, otherwise by position. Every
    candidate that ties with the k-th score is considered, so the result does not depend on the
    selection algorithm.
    """
    if len(scores) > k:
        kth = np.partition(scores, len(scores) - k)[len(scores) - k]
        kept = scores >= kth
        scores, positions = scores[kept], positions[kept]
    if id_of is not None:
        ranked = zip(positions.tolist(), scores.tolist(), strict=True)
        return sorted(ranked, key=lambda pair: (-pair[1], id_of(pair[0])))[:k]
    order = np.argsort(-scores, kind="stable")[:k]
    return list(zip(positions[order].tolist(), scores[order].tolist(), strict=True))


def top_positive(
    scores: NDArray[np.float32], k: int, id_of: Callable[[int], str] | None = None
) -> Ranked:
    """`top_k` of the positions whose score is above 0; `scores` [n] belong to positions 0 to n - 1.

    The k-th best of the blocks' maxima is a lower bound of the k-th best score. Scores below it are
    skipped without sorting.

    Raises:
        InvalidInputError: a score is no number.
    """
    bound = np.float32(0)
    size = max(1, len(scores) // (_BLOCKS_PER_HIT * k))
    highest = np.maximum.reduceat(scores, np.arange(0, len(scores), size)) if size > 1 else scores
    check_finite(highest)
    if size > 1:
        bound = np.sort(highest)[-k]
    positions = np.flatnonzero(scores >= bound if bound > 0 else scores > 0)
    return top_k(scores[positions], positions, k, id_of)
