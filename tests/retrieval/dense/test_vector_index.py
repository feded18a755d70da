"""Kinds of vector files against brute force in numpy."""

from __future__ import annotations

import itertools
import struct
from pathlib import Path

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tspo_cli.config.sections.index_settings import DenseSettings
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.retrieval.dense import torch_search
from tspo_cli.retrieval.dense.check_vectors import check_vectors
from tspo_cli.retrieval.dense.dense_ranker import VectorIndex, empty_index, write_vectors
from tspo_cli.retrieval.dense.faiss_files import FlatRows, open_faiss, write_flat
from tspo_cli.retrieval.dense.vectors import ShardedVectors
from tspo_cli.retrieval.types import RESCORE_NAME, VECTORS_NAME

ROWS, DIM, K = 3000, 32, 10
Array = NDArray[np.float32]


def _unit(rows: int, seed: int) -> Array:
    # Around centres, as the vectors of texts are: lists of an IVF then mean something.
    random = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(20, DIM))
    found = centres[random.integers(0, 20, rows)] + random.normal(size=(rows, DIM))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def vectors() -> Array:
    return _unit(ROWS, 1)


@pytest.fixture(scope="module")
def queries() -> Array:
    return _unit(10_000, 2)


@pytest.fixture(scope="module")
def truth(vectors: Array, queries: Array) -> NDArray[np.int64]:
    return np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :K]


def _built(folder: Path, vectors: Array, **options: object) -> Path:
    settings = DenseSettings(shard_size=700, **options)  # type: ignore[arg-type]
    shards = ShardedVectors(folder / "shards", len(vectors), 700, "float32")
    for shard in range(shards.shards):
        shards.put(shard, vectors[slice(*shards.span(shard))])
    write_vectors(shards, len(vectors), vectors.shape[1], folder, settings)
    return folder


def _open(folder: Path, **options: object) -> VectorIndex:
    rescore = folder / RESCORE_NAME
    return VectorIndex(
        [folder / VECTORS_NAME],
        rescore if rescore.is_file() else None,
        DenseSettings(**options),  # type: ignore[arg-type]
    )


def _ids(index: VectorIndex, queries: Array) -> NDArray[np.int64]:
    return np.array([[at for at, _ in ranked] for ranked in index.rank(queries, K)])


def _recall(found: NDArray[np.int64], truth: NDArray[np.int64]) -> float:
    return float(
        np.mean(
            [len(set(a) & set(b)) / K for a, b in zip(found.tolist(), truth.tolist(), strict=True)]
        )
    )


EXACT = [
    {},
    *({"backend": "torch", "first_pass": numbers} for numbers in ("float32", "float16", "int8")),
]


@pytest.mark.parametrize("options", EXACT)
def test_exact_kinds_equal_brute_force(
    options: dict[str, object],
    vectors: Array,
    queries: Array,
    truth: NDArray[np.int64],
    tmp_path: Path,
) -> None:
    found = _open(_built(tmp_path, vectors), **options)
    ranked = found.rank(queries, K)
    differ = [
        row for row, answer in enumerate(ranked) if [at for at, _ in answer] != truth[row].tolist()
    ]
    # What differs are ties: numpy's own scores are equal to the last digits there.
    for row in differ:
        mine, best = (
            queries[row] @ vectors[[at for at, _ in ranked[row]]].T,
            queries[row] @ vectors[truth[row]].T,
        )
        np.testing.assert_allclose(mine, best, atol=2e-7)
    assert len(differ) < 20


@pytest.mark.parametrize(
    ("options", "least"),
    [
        ({"factory": "SQfp16"}, 0.995),
        ({"factory": "SQ8"}, 0.95),
        ({"factory": "SQ8", "rescore": "float32"}, 0.9999),
        ({"factory": "SQ8", "rescore": "float16"}, 0.995),
        ({"factory": "IVF16,Flat", "nprobe": 16}, 0.999),
        ({"factory": "IVF16,PQ8", "nprobe": 16, "rescore": "float32", "candidates": 400}, 0.99),
        ({"factory": "HNSW32", "ef_search": 200}, 0.99),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_compressed_kinds_find_nearly_the_same(
    options: dict[str, object],
    least: float,
    vectors: Array,
    queries: Array,
    truth: NDArray[np.int64],
    tmp_path: Path,
) -> None:
    folder = _built(tmp_path, vectors, **options)
    index = _open(folder, **options)
    assert _recall(_ids(index, queries[:1000]), truth[:1000]) >= least
    np.testing.assert_allclose(index.rows(np.array([5, 2])), vectors[[5, 2]], atol=0.25)


@pytest.mark.parametrize("scale", [1, 7])
def test_int8_is_exact_where_its_codes_cannot_tell_rows_apart(scale: float, tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    crowd = _unit(1, 3) + 2e-3 * random.normal(size=(600, DIM)).astype(np.float32)
    rows = scale * np.concatenate([_unit(200, 4), crowd, crowd[:7]])
    queries = np.concatenate([_unit(1, 3), crowd[5:8], _unit(6, 8)])
    answers = _open(_built(tmp_path, rows), backend="torch", first_pass="int8", candidates=1).rank(
        queries, K
    )
    for query, answer in zip(queries, answers, strict=True):
        exact = (rows * query).sum(axis=1, dtype=np.float32)
        assert [at for at, _ in answer] == np.argsort(-exact, kind="stable")[:K].tolist()


def _in_float16(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU scans in float16 as a GPU does."""
    monkeypatch.setattr(torch_search, "scan_dtype", lambda *_: torch.float16)


def _dot_product_rows(longest: float) -> Array:
    """Rows of length 5 to 50 (times longest / 50), nearly orthogonal to _unit(1, 12): their scores
    for it are small and close, while the rounding of float16 grows with the lengths.
    """
    random = np.random.default_rng(11)
    (axis,) = _unit(1, 12)
    rows = random.normal(size=(900, DIM))
    rows -= (rows @ axis)[:, None] * axis
    rows *= random.uniform(5, 50, size=(900, 1)) / np.linalg.norm(rows, axis=1, keepdims=True)
    rows += random.uniform(0.1, 0.102, size=(900, 1)) * axis
    return (rows * longest / 50).astype(np.float32)


@pytest.mark.parametrize("longest", [50, 50_000, 1e-3])
@pytest.mark.parametrize("query_length", [5, 50, 1e6])
def test_float16_is_exact_for_vectors_of_any_length(
    longest: float, query_length: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = _dot_product_rows(longest)
    queries = np.float32(query_length) * np.concatenate([_unit(1, 12), _unit(5, 13)])
    folder = _built(tmp_path, rows)
    right = _open(folder, backend="torch").rank(queries, K)
    _in_float16(monkeypatch)
    assert _open(folder, backend="torch", first_pass="float16").rank(queries, K) == right
    exact = np.sort((rows * queries[0]).sum(axis=1, dtype=np.float32))[::-1][:K]
    assert [score for _, score in right[0]] == exact.tolist()


def test_vectors_that_float16_cannot_hold_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _in_float16(monkeypatch)
    for number, longest in enumerate((70_000, 1e30)):
        folder = _built(tmp_path / str(number), _dot_product_rows(longest))
        with pytest.raises(InvalidInputError, match="float16 holds vectors of length up to 65,000"):
            _open(folder, backend="torch", first_pass="float16")


@pytest.mark.parametrize("factory", ["Flat", "SQfp16", "SQ8"])
def test_a_streamed_file_is_the_one_that_faiss_writes(
    factory: str, vectors: Array, tmp_path: Path
) -> None:
    index = faiss.index_factory(DIM, factory, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    write_flat(index, [vectors[:1000], vectors[1000:]], ROWS, tmp_path / "streamed")
    index.add(vectors)
    faiss.write_index(index, str(tmp_path / "faiss"))
    assert (tmp_path / "streamed").read_bytes() == (tmp_path / "faiss").read_bytes()


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 20 * 4 * 8 + 45), max_size=4), half=st.booleans())
def test_pieces_cut_anywhere_are_one_file(
    cuts: list[int], half: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("pieces")
    rows = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    index = faiss.index_factory(8, "SQfp16" if half else "Flat", faiss.METRIC_INNER_PRODUCT)
    index.train(rows)
    index.add(rows)
    faiss.write_index(index, str(folder / "whole"))
    raw = (folder / "whole").read_bytes()
    edges = [0, *sorted(cut for cut in cuts if 0 < cut < len(raw)), len(raw)]
    pieces = []
    for number, (start, stop) in enumerate(itertools.pairwise(edges)):
        if stop - start and (number or stop >= 120 or len(edges) == 2):
            pieces.append(folder / f"part_{number}")
            pieces[-1].write_bytes(raw[start:stop])
    if sum(piece.stat().st_size for piece in pieces) != len(raw):
        return  # a first piece too small to hold the header
    exact = rows.astype(np.float16).astype(np.float32) if half else rows
    np.testing.assert_array_equal(FlatRows(pieces).rows(np.arange(20)), exact)
    answers = VectorIndex(pieces, None, DenseSettings()).rank(rows, 3)
    assert [[at for at, _ in ranked] for ranked in answers] == np.argsort(-(rows @ exact.T))[
        :, :3
    ].tolist()


def test_other_kinds_in_pieces_are_read_too(vectors: Array, queries: Array, tmp_path: Path) -> None:
    index = faiss.index_factory(DIM, "HNSW16", faiss.METRIC_INNER_PRODUCT)
    index.add(vectors[:500])
    faiss.write_index(index, str(tmp_path / "whole"))
    raw = (tmp_path / "whole").read_bytes()
    (tmp_path / "part_aa").write_bytes(raw[:10_000])
    (tmp_path / "part_ab").write_bytes(raw[10_000:])
    whole = VectorIndex([tmp_path / "whole"], None, DenseSettings())
    pieces = VectorIndex([tmp_path / "part_aa", tmp_path / "part_ab"], None, DenseSettings())
    assert whole.rank(queries[:50], 5) == pieces.rank(queries[:50], 5)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("factory", ["Flat", "SQ8", "IVF16,Flat", "HNSW16"])
def test_a_cut_file_is_refused(factory: str, vectors: Array, tmp_path: Path) -> None:
    folder = _built(tmp_path, vectors, factory=factory)
    path = folder / VECTORS_NAME
    raw = path.read_bytes()
    for size in (0, 3, 20, 60, len(raw) // 2, len(raw) - 1):
        path.write_bytes(raw[:size])
        with pytest.raises(InvalidInputError, match=r"vectors\.faiss"):
            _open(folder)


def test_fewer_hits_than_k_never_become_the_last_passage(vectors: Array, tmp_path: Path) -> None:
    index = _open(_built(tmp_path, vectors, factory="IVF64,Flat"), nprobe=1)
    ranked = index.rank(vectors[:20], 1000)
    assert all(0 < len(answer) < 1000 for answer in ranked)
    assert all(0 <= at < ROWS for answer in ranked for at, _ in answer)
    assert all(len({at for at, _ in answer}) == len(answer) for answer in ranked)


def test_k_beyond_the_corpus_gives_the_corpus(vectors: Array, tmp_path: Path) -> None:
    for options in ({}, {"backend": "torch"}):
        ranked = _open(_built(tmp_path / str(len(options)), vectors[:7]), **options).rank(
            vectors[:2], 50
        )
        assert [sorted(at for at, _ in answer) for answer in ranked] == [list(range(7))] * 2


def test_what_cannot_be_made_is_named(vectors: Array, tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match="factory: FAISS cannot make 'Flatt'"):
        _built(tmp_path / "a", vectors, factory="Flatt")
    with pytest.raises(InvalidInputError, match="factory: FAISS cannot make 'IVF4096,Flat'"):
        _built(tmp_path / "b", vectors[:50], factory="IVF4096,Flat")
    with pytest.raises(InvalidInputError, match="has Euclidean distances only"):
        _built(tmp_path / "e", vectors, factory="HNSW16,PQ8")
    folder = _built(tmp_path / "c", vectors, factory="SQ8")
    with pytest.raises(InvalidInputError, match="torch searches flat indexes only"):
        _open(folder, backend="torch")
    with pytest.raises(InvalidInputError, match="first_pass: int8 needs"):
        _open(folder, first_pass="int8")
    with pytest.raises(MissingResourceError, match="there are 0 GPUs here"):
        _open(_built(tmp_path / "d", vectors), backend="torch", device="cuda:7")
    l2 = faiss.IndexFlatL2(DIM)
    faiss.write_index(l2, str(tmp_path / "l2"))
    with pytest.raises(InvalidInputError, match="expected an inner-product index"):
        VectorIndex([tmp_path / "l2"], None, DenseSettings())


@pytest.mark.gpu
@pytest.mark.parametrize("first_pass", ["float32", "float16", "int8"])
@pytest.mark.parametrize("batch", [1, 70])
def test_a_gpu_finds_what_brute_force_finds(tmp_path: Path, first_pass: str, batch: int) -> None:
    rows, dim = 300_001, 72
    random = np.random.default_rng(3)
    vectors = random.normal(size=(rows, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    write_flat(empty_index(dim, "Flat"), iter([vectors]), rows, tmp_path / "vectors.faiss")
    queries = random.normal(size=(batch, dim)).astype(np.float32)
    settings = DenseSettings(backend="torch", first_pass=first_pass, device="cuda")
    found = VectorIndex([tmp_path / "vectors.faiss"], None, settings).rank(queries, 10)
    right = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    assert [[at for at, _ in ranked] for ranked in found] == right.tolist()


def test_a_file_that_cannot_be_searched_is_refused(
    vectors: Array, queries: Array, tmp_path: Path
) -> None:
    index = _open(_built(tmp_path, vectors, factory="IVF4,Flat"), factory="IVF4,Flat").path
    payload = bytearray(index.read_bytes())
    assert payload[32] == 1, "that it is trained"
    payload[32] = 0
    index.write_bytes(payload)
    with pytest.raises(InvalidInputError, match=r"vectors\.faiss: not an intact FAISS index"):
        _open(index.parent, factory="IVF4,Flat").rank(queries, 3)


@pytest.mark.parametrize("factory", ["PQ4", "IVF2,PQ4", "OPQ4,PQ4", "OPQ4,IVF2,PQ4"])
def test_codes_that_the_quantiser_reads_beyond_are_refused(tmp_path: Path, factory: str) -> None:
    """FAISS does not compare the two lengths, and reads what lies behind the codes."""
    rows = np.random.default_rng(0).normal(size=(512, 16)).astype(np.float32)
    index = faiss.index_factory(16, factory, faiss.METRIC_INNER_PRODUCT)
    index.train(rows)
    index.add(rows)
    path = tmp_path / "vectors.faiss"
    faiss.write_index(index, str(path))
    assert open_faiss([path]).ntotal == 512
    whole = path.read_bytes()
    sizes = struct.pack("<QQQ", 16, 4, 8)
    assert whole.count(sizes) == 1
    path.write_bytes(whole.replace(sizes, struct.pack("<QQQ", 16, 2, 8)))
    with pytest.raises(InvalidInputError, match=r"vectors\.faiss: not an intact FAISS index"):
        open_faiss([path])


@pytest.mark.parametrize("factory", ["IVF4,Flat", "IVF4,SQ8", "OPQ8,IVF4,PQ8", "IDMap,SQ8"])
def test_lists_that_do_not_name_each_row_once_are_damaged(
    vectors: Array, queries: Array, tmp_path: Path, factory: str
) -> None:
    """Rows below 0 were no hits, and those of another passage were taken, without a word."""
    index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    rows = np.arange(len(vectors))
    for name, ids in (("as it was", rows), ("twice", np.maximum(rows, 1)), ("below", rows - 9)):
        index.reset()
        index.add_with_ids(vectors, ids)
        faiss.write_index(index, str(tmp_path / name))
    settings = DenseSettings(nprobe=4)
    check_vectors([tmp_path / "as it was"], None, len(rows), settings)
    for name in ("twice", "below"):
        with pytest.raises(InvalidInputError, match=r"once in its lists|names row -"):
            check_vectors([tmp_path / name], None, len(rows), settings)
    with pytest.raises(InvalidInputError, match="names row -"):
        VectorIndex([tmp_path / "below"], None, settings).rank(queries, len(rows))
