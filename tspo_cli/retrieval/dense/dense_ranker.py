"""Dense retrieval: an encoder's vectors in a FAISS index, ranked by inner product."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import faiss
import numpy as np
from numpy.typing import NDArray

from tspo_cli.config.sections.index_settings import DenseSettings
from tspo_cli.errors import InvalidInputError
from tspo_cli.retrieval.dense.encoder import Encoder
from tspo_cli.retrieval.dense.faiss_files import (
    FlatRows,
    is_flat,
    is_streamable,
    open_faiss,
    write_flat,
)
from tspo_cli.retrieval.dense.vectors import ShardedVectors
from tspo_cli.retrieval.ranking import Ranked

VECTORS_NAME = "vectors.faiss"
RESCORE_NAME = "rescore.npy"
_SLACK = {"float32": 1e-4, "float16": 2e-3}
"""How far a first-pass score may be from the exact one, in parts of the best score or of 1: it
depends on the batch, or on its type, in the last digits. Float16: twice 2^-11 for the factors and
once for the product, on vectors of length one. For int8 the scan knows how far its codes are from
the vectors.
"""
_SPARE = 16
"""Candidates beyond k: mostly enough to see that nothing else comes close."""
_NEAR = 4
"""Candidates beyond k that are scored again in any case."""
_TRAINING_ROWS = 65_536
_NUMBERS_AT_ONCE = 2**18
"""Of candidates that are scored again: 1 MiB in float32, which caches hold."""

Rows = Callable[[NDArray[np.int64]], NDArray[np.float32]]
"""Positions in, their vectors out."""
Slack = Callable[[NDArray[np.float32], NDArray[np.float32]], NDArray[np.float32]]
"""Queries [n, d] and their first-pass scores [n, k] in; out, how far those may be from the exact
ones, [n].
"""


class FirstPass(Protocol):
    """What a FAISS index and a TorchScan have in common."""

    ntotal: int
    d: int

    def search(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and positions [n, k] by falling score; position -1 where there is nothing more."""
        ...


def write_vectors(
    shards: ShardedVectors, rows: int, dim: int, directory: Path, settings: DenseSettings
) -> None:
    """Turn encoded shards into the index file of `settings.factory`, and the file to score again
    from.

    Flat and scalar-quantised kinds are written in a stream; others are held in memory while they
    grow.

    Raises:
        InvalidInputError: FAISS does not know the factory string, or it needs more vectors than
        there are.
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
        faiss.write_index(index, str(path))
    if settings.rescore != "none":
        kept = np.lib.format.open_memmap(
            directory / RESCORE_NAME, mode="w+", dtype=np.dtype(settings.rescore), shape=(rows, dim)
        )
        for shard in range(shards.shards):
            start, stop = shards.span(shard)
            kept[start:stop] = shards.block(shard)
        kept.flush()


def empty_index(dim: int, factory: str) -> Any:
    """A FAISS inner-product index without vectors. Raises InvalidInputError for an unknown factory
    string.
    """
    try:
        index: Any = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
        # Minutes of simulated annealing for a kind of search that is not used here.
        for part in (index, faiss.try_extract_index_ivf(index)):
            if part is not None and hasattr(part, "do_polysemous_training"):
                part.do_polysemous_training = False
        return index
    except RuntimeError as error:
        raise _factory_error(factory, error) from None


def _factory_error(factory: str, error: RuntimeError) -> InvalidInputError:
    reason = str(error).strip().splitlines()[0].split(": ", 1)[-1][:160]
    return InvalidInputError(
        f"setting factory: FAISS cannot make {factory!r} of this corpus ({reason})"
    )


def _training_rows(index: Any) -> int:
    """FAISS wants 39 vectors or more for a centroid; 64 are plenty."""
    ivf = faiss.try_extract_index_ivf(index)
    return max(_TRAINING_ROWS, 64 * ivf.nlist if ivf is not None else 0)


class VectorIndex:
    """Vectors on disk that can be searched by vector.

    Args:
        pieces: the FAISS file, or its pieces in order.
        rescore: the file with all vectors beside a compressed index, where there is one.
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
            kept = np.load(rescore, mmap_mode="r", allow_pickle=False)
            if kept.shape != (self.ntotal, self.dim):
                raise InvalidInputError(
                    f"{rescore}: expected {self.ntotal} x {self.dim}, got {kept.shape}"
                )
            self._exact = lambda positions: kept[positions].astype(np.float32)
        self._lossless = flat is not None and rescore is None
        self._slack = (
            _relative_slack(_SLACK[settings.first_pass])
            if settings.first_pass in _SLACK
            else _scan_slack(self._index)
        )

    def rank(self, vectors: NDArray[np.float32], k: int) -> list[Ranked]:
        """The best `k` positions for each of `vectors` [n, dim]."""
        k = min(k, self.ntotal)
        if self._lossless:
            first = (
                k + _SPARE
                if self._settings.first_pass in _SLACK
                else max(k + _SPARE, self._settings.candidates)
            )
            return rank_vectors(
                self._index, vectors, k, self._exact, slack=self._slack, first=first
            )
        wanted = k if self._exact is None else max(k, min(self._settings.candidates, self.ntotal))
        scores, positions = self._index.search(vectors, wanted)
        return _rank_candidates(vectors, scores, positions, k, self._exact, self.ntotal)

    def rows(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors at `positions`, [n, dim], as exactly as they are kept."""
        if self._exact is not None:
            return self._exact(positions)
        index: Any = self._index
        ivf = faiss.try_extract_index_ivf(index)
        if ivf is not None:
            ivf.make_direct_map()
        return np.stack([index.reconstruct(int(at)) for at in positions])


def check_device(device: str) -> None:
    """Raises MissingResourceError where there is no such GPU, InvalidInputError for what names no
    device.
    """
    from tspo_cli.retrieval.dense.torch_search import devices

    devices(device)


class DenseRanker:
    """Ranks by the inner product of the query's vector with every passage's.

    Args:
        rows: passages in the corpus.
        exported: the encoder as its backend keeps it, if that is in the index.

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
        if vectors.ntotal != rows:
            raise InvalidInputError(
                f"{vectors.path}: holds {vectors.ntotal} vectors, the corpus {rows} passages; "
                "this is the index of another corpus"
            )
        self._encoder = Encoder(encoder, settings, exported)
        if self._encoder.dim != vectors.dim:
            raise InvalidInputError(
                f"encoder {encoder}: gives {self._encoder.dim} dimensions, {vectors.path} has "
                f"{vectors.dim}; "
                "name the encoder that built it, or build the index again"
            )

    def rank(self, queries: list[str], k: int) -> list[Ranked]:
        """The best `k` positions for each query."""
        return self._vectors.rank(self._encoder.encode_queries(queries), k) if queries else []

    def cosines(self, positions: NDArray[np.int64], contents: Sequence[str]) -> NDArray[np.float32]:
        """Between the rows at `positions` and the passages `contents` encoded now, [n]."""
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
    found: FirstPass = index
    return found


def _relative_slack(share: float) -> Slack:
    return lambda vectors, scores: (
        np.float32(share) * np.maximum(np.abs(scores[:, 0]), np.float32(1))
    )


def _scan_slack(index: Any) -> Slack:
    return lambda vectors, scores: index.error(vectors)


def rank_vectors(
    index: FirstPass,
    vectors: NDArray[np.float32],
    k: int,
    rows: Rows | None = None,
    *,
    slack: Slack = _relative_slack(1e-4),
    first: int = 0,
) -> list[Ranked]:
    """The best `k` rows of an inner-product index that keeps its vectors, for each of `vectors` [n,
    dim].

    The first pass names candidates (`first` of them, or some more than `k`), whose scores are
    computed again one by one, so that equal vectors score equally and a query's answer does not
    depend on which others came with it. It is asked for more until no other row can score as high
    as the k-th, so that the answer is exact.
    """
    exact_rows: Rows = rows or index.reconstruct_batch  # type: ignore[attr-defined]
    answers: list[Ranked] = [[] for _ in vectors]
    unsettled = np.arange(len(vectors))
    wanted = min(max(first, k + _SPARE), index.ntotal)
    while len(unsettled):
        asked = vectors[unsettled]
        scores, positions = index.search(asked, wanted)
        margins = slack(asked, scores)
        ranked = _rank_candidates(asked, scores, positions, k, exact_rows, index.ntotal, margins)
        left = []
        for row, near, margin, answer in zip(
            unsettled.tolist(), scores[:, -1], margins, ranked, strict=True
        ):
            answers[row] = answer
            if wanted < index.ntotal and near + margin >= answer[-1][1]:
                left.append(row)
        unsettled = np.array(left, np.int64)
        wanted = min(2 * wanted, index.ntotal)
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
    """The best `k` of what a first pass found for each of `vectors` [n, dim]: `scores` and
    `positions` [n, c], with position -1 where FAISS had nothing more.

    They are scored again where there are `rows` to do it with; where `margins` [n] say how far a
    score may be from the exact one, those alone that could be among the best.
    """
    if (positions >= ntotal).any():
        raise InvalidInputError(
            f"the index names row {positions.max()} of {ntotal}; it is damaged: build it again"
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
    best = np.lexsort((positions, -exact), axis=1)[:, :k]
    found, exact = (
        np.take_along_axis(positions, best, axis=1),
        np.take_along_axis(exact, best, axis=1),
    )
    pairs = zip(found.tolist(), exact.tolist(), strict=True)
    return [
        [(at, score) for at, score in zip(*row, strict=True) if score > -np.inf] for row in pairs
    ]


def _score_again(
    vectors: NDArray[np.float32],
    positions: NDArray[np.int64],
    wanted: NDArray[np.bool_],
    rows: Rows,
) -> NDArray[np.float32]:
    """Inner products [n, c] of `vectors` [n, dim] with the rows at the `wanted` of `positions` [n,
    c], each the same in every batch; elsewhere minus infinity.
    """
    exact = np.full(positions.shape, -np.inf, np.float32)
    queries, columns = np.nonzero(wanted)
    step = max(1, _NUMBERS_AT_ONCE // vectors.shape[1])
    for at in range(0, len(queries), step):
        query, column = queries[at : at + step], columns[at : at + step]
        products = rows(positions[query, column]) * vectors[query]
        exact[query, column] = products.sum(axis=1, dtype=np.float32)
    return exact
