"""Dense retrieval: an encoder's vectors in a FAISS index, ranked by inner product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

from tspo_cli.config.sections.index_settings import DenseSettings
from tspo_cli.console import counted
from tspo_cli.disk import reserve, writing
from tspo_cli.errors import InvalidInputError
from tspo_cli.retrieval.dense.encoder import Encoder
from tspo_cli.retrieval.dense.faiss_files import (
    FlatRows,
    is_flat,
    is_streamable,
    open_faiss,
    said_as_damage,
    stored_rows,
    write_flat,
    write_whole,
)
from tspo_cli.retrieval.dense.vectors import ShardedVectors
from tspo_cli.retrieval.mapped_array import map_array
from tspo_cli.retrieval.ranking import Ranked, check_finite
from tspo_cli.retrieval.types import RESCORE_NAME, VECTORS_NAME

_KEPT = (np.dtype(np.float32), np.dtype(np.float16))
"""Types of the full vectors that are kept beside a compressed index."""
_SLACK = 1e-4
"""Bound of the error of a float32 score of the first pass, relative to the best score or 1,
whichever is larger: rounding depends on the batch. For float16 and int8 the scan computes a bound.
"""
_SPARE = 16
"""Candidates beyond k: mostly enough to prove that no other row is among the best."""
_NEAR = 4
"""Candidates beyond k that are always scored again."""
_TRAINING_ROWS = 65_536
_NUMBERS_AT_ONCE = 2**18
"""Numbers of the candidates scored again at once: 1 MiB in float32, which fits the CPU's cache."""

Rows = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""Positions in, their vectors out."""
Slack = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]
"""From queries [n, d] and their first-pass scores [n, k] to a bound of the scores' error, [n]."""


class FirstPass(Protocol):
    """The common interface of a FAISS index and a TorchScan."""

    ntotal: int
    d: int

    def search(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and positions [n, k] by falling score; position -1 marks a missing result."""
        ...


def write_vectors(
    shards: ShardedVectors, rows: int, dim: int, directory: Path, settings: DenseSettings
) -> None:
    """Write the index file of `settings.factory` from encoded shards, and the file to rescore from.

    Flat and scalar-quantised indexes are written as a stream; others grow in memory.

    Raises:
        InvalidInputError: FAISS does not know the factory string, or needs more vectors to train.
    """
    index = empty_index(dim, settings.factory)
    try:
        if not index.is_trained:
            index.train(shards.sample(settings.train_size or _training_rows(index)))
    except RuntimeError as error:
        raise _factory_error(settings.factory, error) from None
    path = directory / VECTORS_NAME
    if is_streamable(index):
        write_flat(index, shards.blocks(), rows, path)
    else:
        for block in shards.blocks():
            index.add(block)
        write_whole(index, path)
    if settings.rescore != "none":
        path, dtype = directory / RESCORE_NAME, np.dtype(settings.rescore)
        with writing(path, rows * dim * dtype.itemsize):
            kept = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=(rows, dim))
            reserve(path)
        for shard in range(shards.shards):
            start, stop = shards.span(shard)
            kept[start:stop] = shards.block(shard)
        kept.flush()


def empty_index(dim: int, factory: str) -> Any:
    """An empty FAISS inner-product index. Raises InvalidInputError for an unknown `factory`."""
    try:
        index: Any = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
        # It takes minutes of simulated annealing, for a kind of search that is not used here.
        for part in (index, faiss.try_extract_index_ivf(index)):
            if part is not None and hasattr(part, "do_polysemous_training"):
                part.do_polysemous_training = False
        if index.metric_type != faiss.METRIC_INNER_PRODUCT:  # it takes another without a word
            raise RuntimeError("it has Euclidean distances only, no inner products")
        return index
    except RuntimeError as error:
        raise _factory_error(factory, error) from None


def _factory_error(factory: str, error: RuntimeError) -> InvalidInputError:
    reason = str(error).strip().splitlines()[0].split(": ", 1)[-1][:160]
    return InvalidInputError(
        f"setting factory: FAISS cannot make {factory!r} of this corpus ({reason})"
    )


def _training_rows(index: Any) -> int:
    """FAISS requires 39 training vectors for each centroid; 64 are enough."""
    ivf = faiss.try_extract_index_ivf(index)
    return max(_TRAINING_ROWS, 64 * ivf.nlist if ivf is not None else 0)


class VectorIndex:
    """Vectors on disk that can be searched by vector.

    Args:
        pieces: the FAISS file, or its pieces in order.
        rescore: the file with the full vectors of a compressed index, if there is one.
        settings: how to search.

    Raises:
        InvalidInputError: the file is damaged, or does not fit the settings.
        MissingResourceError: no such device.
    """

    def __init__(
        self, pieces: Sequence[Path], rescore: Path | None, settings: DenseSettings
    ) -> None:
        if settings.device != "auto":
            check_device(settings.device)
        self._settings = settings
        self.path = pieces[0]
        flat = FlatRows(pieces) if is_flat(pieces[0]) else None
        self._exact: Rows | None = flat.rows if flat is not None else None
        self._index = _first_pass(pieces, flat, settings)
        self.ntotal, self.dim = int(self._index.ntotal), int(self._index.d)
        if rescore is not None:
            kept = kept_vectors(rescore, self.ntotal, self.dim)
            self._exact = lambda positions: kept[positions].astype(np.float32)
        self._lossless = flat is not None and rescore is None
        self._slack = _slack(self._index)

    def rank(self, vectors: NDArray[np.float32], k: int) -> list[Ranked]:
        """The best `k` positions for each of `vectors` [n, dim].

        Raises:
            InvalidInputError: the file is damaged.
        """
        with said_as_damage(self.path):
            return self._rank(vectors, min(k, self.ntotal))

    def _rank(self, vectors: NDArray[np.float32], k: int) -> list[Ranked]:
        if self._lossless:
            count = k + _SPARE
            if self._settings.first_pass == "int8":
                count = max(count, self._settings.candidates)
            return rank_vectors(
                self._index, vectors, k, self._exact, slack=self._slack, candidates=count
            )
        count = k if self._exact is None else max(k, min(self._settings.candidates, self.ntotal))
        scores, positions = self._index.search(vectors, count)
        return _rank_candidates(vectors, scores, positions, k, self._exact, self.ntotal)

    def rows(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors at `positions`, [n, dim], from the most exact copy; see `stored_rows`."""
        if self._exact is not None:
            return self._exact(positions)
        return stored_rows(self.path, self._index, positions)


def kept_vectors(rescore: Path, rows: int, dim: int) -> NDArray[Any]:
    """The full vectors [rows, dim] of a compressed index. Raises InvalidInputError for others."""
    kept = map_array(rescore, _KEPT, 2)
    if kept.shape != (rows, dim):
        raise InvalidInputError(f"{rescore}: expected {rows} x {dim}, got {kept.shape}")
    return kept


def check_count(path: Path, vectors: int, passages: int) -> None:
    """Raises InvalidInputError unless each passage has a vector."""
    if vectors != passages:
        raise InvalidInputError(
            f"{path}: holds {counted(vectors, 'vector')}, the corpus "
            f"{counted(passages, 'passage')}; this is the index of another corpus"
        )


def check_device(device: str) -> None:
    """Raises MissingResourceError for a missing GPU, InvalidInputError for an unknown device."""
    from tspo_cli.retrieval.dense.torch_search import devices

    devices(device)


class DenseRanker:
    """Ranks by the inner product of the query's vector with every passage's.

    Args:
        rows: passages in the corpus.
        exported: the encoder's ONNX file in the index, if there is one.

    Raises:
        InvalidInputError: the vectors do not fit the corpus or the encoder.
        MissingResourceError: no such encoder.
    """

    def __init__(
        self,
        vectors: VectorIndex,
        rows: int,
        encoder: str,
        settings: DenseSettings,
        exported: Path | None = None,
    ) -> None:
        self._vectors = vectors
        check_count(vectors.path, vectors.ntotal, rows)
        self._encoder = Encoder(encoder, settings, exported)
        if self._encoder.dim != vectors.dim:
            raise InvalidInputError(
                f"encoder {encoder}: gives {counted(self._encoder.dim, 'dimension')}, "
                f"{vectors.path} has {vectors.dim:,}; "
                "name the encoder that built it, or build the index again"
            )

    def rank(self, queries: list[str], k: int) -> list[Ranked]:
        """The best `k` positions for each query."""
        return self._vectors.rank(self._encoder.encode_queries(queries), k) if queries else []

    def cosines(self, positions: NDArray[np.int64], contents: Sequence[str]) -> NDArray[np.float32]:
        """Cosine similarity of the vectors at `positions` with the encoded `contents`, [n]."""
        rows, encoded = self._vectors.rows(positions), self._encoder.encode_passages(contents)
        norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(encoded, axis=1)
        cosines: NDArray[np.float32] = (rows * encoded).sum(axis=1) / np.maximum(norms, 1e-12)
        return cosines


def _first_pass(
    pieces: Sequence[Path], flat: FlatRows | None, settings: DenseSettings
) -> FirstPass:
    if settings.backend == "torch" or (flat is not None and len(pieces) > 1):
        if flat is None:
            raise InvalidInputError(
                "setting backend: torch searches flat indexes only; leave it at faiss"
            )
        from tspo_cli.retrieval.dense.torch_search import TorchScan

        return TorchScan(flat, settings.first_pass, settings.device)
    if settings.first_pass != "float32":
        raise InvalidInputError(
            f"setting first_pass: {settings.first_pass} needs --set backend=torch"
        )
    index = open_faiss(pieces)
    if index.metric_type != faiss.METRIC_INNER_PRODUCT:
        raise InvalidInputError(f"{pieces[0]}: expected an inner-product index, got another metric")
    ivf = faiss.try_extract_index_ivf(index)
    if ivf is not None:
        ivf.nprobe = min(settings.nprobe, ivf.nlist)
    if isinstance(index, faiss.IndexHNSW):
        index.hnsw.efSearch = max(settings.ef_search, settings.candidates)
    first_pass: FirstPass = index
    return first_pass


def _slack(index: Any) -> Slack:
    if getattr(index, "is_exact", True):
        return _relative_slack
    return lambda vectors, scores: index.error(vectors)


def _relative_slack(
    vectors: NDArray[np.float32], scores: NDArray[np.float32]
) -> NDArray[np.float32]:
    bound: NDArray[np.float32] = np.float32(_SLACK) * np.maximum(
        np.abs(scores[:, 0]), np.float32(1)
    )
    return bound


def rank_vectors(
    index: FirstPass,
    vectors: NDArray[np.float32],
    k: int,
    rows: Rows | None = None,
    *,
    slack: Slack = _relative_slack,
    candidates: int = 0,
) -> list[Ranked]:
    """The exact best `k` rows of an inner-product index, for each of `vectors` [n, dim].

    The first pass finds `candidates` (or a few more than `k`). Each candidate's score is then
    computed alone, so that equal vectors have equal scores, and a query's results do not depend on
    the other queries of the batch. The number of candidates is doubled until no other row can score
    as high as the k-th.
    """
    exact_rows: Rows = rows or index.reconstruct_batch  # type: ignore[attr-defined]
    answers: list[Ranked] = [[] for _ in vectors]
    unsettled = np.arange(len(vectors))
    count = min(max(candidates, k + _SPARE), index.ntotal)
    while len(unsettled):
        queries = vectors[unsettled]
        scores, positions = index.search(queries, count)
        if (positions < 0).any():
            raise InvalidInputError(
                f"the index finds fewer than {count} of {counted(index.ntotal, 'vector')}, "
                f"for others are no "
                "numbers; it is damaged: build it again"
            )
        margins = slack(queries, scores)
        ranked = _rank_candidates(queries, scores, positions, k, exact_rows, index.ntotal, margins)
        left = []
        for row, near, margin, answer in zip(
            unsettled.tolist(), scores[:, -1], margins, ranked, strict=True
        ):
            answers[row] = answer
            if count < index.ntotal and near + margin >= answer[-1][1]:
                left.append(row)
        unsettled = np.array(left, np.int64)
        count = min(2 * count, index.ntotal)
    return answers


def _rank_candidates(
    vectors: NDArray[np.float32],
    scores: NDArray[np.float32],
    positions: NDArray[np.int64],
    k: int,
    rows: Rows | None,
    ntotal: int,
    margins: NDArray[np.float32] | None = None,
) -> list[Ranked]:
    """The best `k` candidates of a first pass, for each of `vectors` [n, dim].

    `scores` and `positions` are [n, c]; position -1 marks a missing candidate. With `rows` the
    candidates are scored again; with `margins` [n], the bounds of the scores' error, only those
    that can be among the best.
    """
    if (foreign := positions[(positions < -1) | (positions >= ntotal)]).size:
        raise InvalidInputError(
            f"the index names row {foreign[0]} of {ntotal}; it is damaged: build it again"
        )
    real = positions >= 0
    exact = np.where(real, scores, np.float32(-np.inf))
    if rows is not None:
        near = np.zeros_like(real)
        near[:, : k + _NEAR] = True
        exact = _score_again(vectors, positions, real & near, rows)
        if near.shape[1] > k + _NEAR:
            kth = -np.partition(-exact, k - 1, axis=1)[:, k - 1 : k]
            reach = scores + margins[:, None] >= kth if margins is not None else True
            exact = np.maximum(exact, _score_again(vectors, positions, real & ~near & reach, rows))
    check_finite(exact[exact != -np.inf])
    best = np.lexsort((positions, -exact), axis=1)[:, :k]
    positions, exact = (
        np.take_along_axis(positions, best, axis=1),
        np.take_along_axis(exact, best, axis=1),
    )
    pairs = zip(positions.tolist(), exact.tolist(), strict=True)
    return [
        [(position, score) for position, score in zip(*row, strict=True) if score > -np.inf]
        for row in pairs
    ]


def _score_again(
    vectors: NDArray[np.float32],
    positions: NDArray[np.int64],
    selected: NDArray[np.bool_],
    rows: Rows,
) -> NDArray[np.float32]:
    """Inner products [n, c] of `vectors` [n, dim] with the rows at `positions` [n, c].

    A product is the same in every batch. Positions that are not `selected` [n, c] get minus
    infinity.
    """
    exact = np.full(positions.shape, -np.inf, np.float32)
    queries, columns = np.nonzero(selected)
    step = max(1, _NUMBERS_AT_ONCE // vectors.shape[1])
    for start in range(0, len(queries), step):
        query, column = queries[start : start + step], columns[start : start + step]
        products = rows(positions[query, column]) * vectors[query]
        exact[query, column] = products.sum(axis=1, dtype=np.float32)
    return exact
