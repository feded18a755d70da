"""Rankers over other rankers: fusion of BM25 and dense, and re-ranking by a cross-encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tspo_cli.config.sections.index_settings import FusionSettings, RerankSettings
from tspo_cli.retrieval.dense.load_encoder import load_reranker
from tspo_cli.retrieval.passages import PassageStore
from tspo_cli.retrieval.ranking import Ranked, Ranker, top_k


class HybridRanker:
    """Reciprocal-rank fusion of several rankers over one corpus."""

    def __init__(self, rankers: Sequence[Ranker], settings: FusionSettings) -> None:
        self._rankers = rankers
        self._settings = settings

    def rank(self, queries: list[str], k: int) -> list[Ranked]:
        """The best `k` positions for each query, scored by `fuse`."""
        depth = max(k, self._settings.depth)
        by_ranker = [ranker.rank(queries, depth) for ranker in self._rankers]
        return [
            fuse(rankings, k, self._settings.rrf_constant)
            for rankings in zip(*by_ranker, strict=True)
        ]


def fuse(rankings: Sequence[Ranked], k: int, constant: int = 60) -> Ranked:
    """Reciprocal-rank fusion (Cormack, Clarke and Büttcher 2009): sum over rankings of 1 /
    (constant + rank).
    """
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, (position, _) in enumerate(ranking, start=1):
            scores[position] = scores.get(position, 0.0) + 1 / (constant + rank)
    positions = np.array(sorted(scores), np.int64)
    return top_k(
        np.array([scores[position] for position in positions.tolist()], np.float32), positions, k
    )


class RerankRanker:
    """Sorts the best passages of another ranker by a cross-encoder's score of (query, contents).

    Raises:
        MissingResourceError: sentence-transformers is not installed, or there is no such model on
            this machine.
        InvalidInputError: its files are damaged, or lack tensors.
    """

    def __init__(
        self, ranker: Ranker, store: PassageStore, settings: RerankSettings, device: str
    ) -> None:
        self._model: Any = load_reranker(settings.reranker, device)
        self._ranker = ranker
        self._store = store
        self._depth = settings.rerank_depth

    def rank(self, queries: list[str], k: int) -> list[Ranked]:
        """The best `k` positions for each query, out of the first `rerank_depth`."""
        answers = []
        for query, ranked in zip(
            queries, self._ranker.rank(queries, max(k, self._depth)), strict=True
        ):
            positions = np.array(sorted(position for position, _ in ranked), np.int64)
            pairs = [(query, self._store[int(position)][1]) for position in positions]
            scores = self._model.predict(pairs, show_progress_bar=False) if pairs else []
            answers.append(top_k(np.asarray(scores, np.float32), positions, k))
        return answers
