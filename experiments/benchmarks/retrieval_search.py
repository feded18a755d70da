"""Every kind of vector file on the same vectors: size, recall against brute force, queries per
second by batch.

    python experiments/benchmarks/retrieval_search.py    synthetic vectors, 10k and 100k rows
    python experiments/benchmarks/retrieval_search.py --rows 1000000
    python experiments/benchmarks/retrieval_search.py --index DIR --questions FILE...  real vectors
    python experiments/benchmarks/retrieval_search.py --index DIR --questions FILE...
      --budget 0

Synthetic vectors of 384 dimensions lie around centres. --index measures the vectors of a flat index
of `tspo index build` (with --rows, after synthetic ones). `same` is the share of queries with the
same ids as numpy in float32, in order; `ties` also accepts other ids with the same scores, to 1e-6.
--budget 0 measures no speed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.benchmarks.common import machine
from tspo_cli.config.sections.index_settings import DenseSettings
from tspo_cli.retrieval.dense.dense_ranker import (
    RESCORE_NAME,
    VECTORS_NAME,
    VectorIndex,
    write_vectors,
)
from tspo_cli.retrieval.dense.faiss_files import FlatRows
from tspo_cli.retrieval.dense.vectors import ShardedVectors
from tspo_cli.retrieval.ranking import Ranked

DIM, SHARD, K = 384, 10_000, 10
BATCHES = (1, 16, 64)
Array = NDArray[np.float32]


def kinds(rows: int) -> dict[str, dict[str, Any]]:
    """The settings of each row of the table. An IVF has about the square root of the rows lists."""
    lists = max(16, int(rows**0.5) // 16 * 16)
    return {
        "flat fp32": {},
        "flat fp32, torch": {"backend": "torch"},
        "flat fp32, torch fp16 first": {"backend": "torch", "first_pass": "float16"},
        "flat fp32, torch int8 first": {"backend": "torch", "first_pass": "int8"},
        "flat fp16": {"factory": "SQfp16"},
        "SQ8": {"factory": "SQ8"},
        "SQ8 + fp16 re-score": {"factory": "SQ8", "rescore": "float16"},
        f"IVF{lists},Flat nprobe 32": {"factory": f"IVF{lists},Flat"},
        f"IVF{lists},PQ48": {"factory": f"IVF{lists},PQ48"},
        f"IVF{lists},PQ48 + fp16 re-score": {
            "factory": f"IVF{lists},PQ48",
            "rescore": "float16",
            "candidates": 400,
        },
        "HNSW32": {"factory": "HNSW32"},
    }


def synthetic(rows: int, seed: int) -> Iterator[Array]:
    """Vectors of length one around 500 centres, in blocks of SHARD."""
    centres = np.random.default_rng(7).normal(size=(500, DIM)).astype(np.float32)
    random = np.random.default_rng(seed)
    for start in range(0, rows, SHARD):
        count = min(SHARD, rows - start)
        noise = random.normal(size=(count, DIM)).astype(np.float32)
        block = centres[random.integers(0, len(centres), count)] + noise
        yield block / np.linalg.norm(block, axis=1, keepdims=True)


def brute_force(shards: ShardedVectors, queries: Array) -> list[Ranked]:
    """The best K rows of each query with their scores, by numpy in float32."""
    best = np.zeros((len(queries), 0), np.float32)
    rows = np.zeros((len(queries), 0), np.int64)
    for shard in range(shards.shards):
        start, stop = shards.span(shard)
        block = shards.block(shard)
        parts = [
            _best(part @ block.T, np.arange(start, stop))
            for part in np.array_split(queries, len(queries) // 500 + 1)
        ]
        best = np.concatenate([best, np.concatenate([scores for scores, _ in parts])], axis=1)
        rows = np.concatenate([rows, np.concatenate([ids for _, ids in parts])], axis=1)
        best, rows = _best(best, rows)
    return [
        list(zip(ids, scores, strict=True))
        for ids, scores in zip(rows.tolist(), best.tolist(), strict=True)
    ]


def _best(scores: Array, rows: NDArray[np.int64]) -> tuple[Array, NDArray[np.int64]]:
    order = np.argsort(-scores, axis=1, kind="stable")[:, :K]
    return np.take_along_axis(scores, order, 1), np.take_along_axis(
        np.broadcast_to(rows, scores.shape), order, 1
    )


def _same_except_ties(ranked: Ranked, best: Ranked) -> bool:
    """Whether two rankings differ only in rows with equal scores, which are equally good."""
    return len(ranked) == len(best) and all(
        row == best_row or abs(score - best_score) <= 1e-6
        for (row, score), (best_row, best_score) in zip(ranked, best, strict=True)
    )


def measure(
    name: str,
    options: dict[str, Any],
    shards: ShardedVectors,
    queries: Array,
    truth: list[Ranked],
    budget: float,
) -> dict[str, Any]:
    """One row of the table; each batch size is measured for about `budget` seconds."""
    settings = DenseSettings(**options)
    rows = sum(len(range(*shards.span(shard))) for shard in range(shards.shards))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        started = time.perf_counter()
        write_vectors(shards, rows, queries.shape[1], folder, settings)
        built = time.perf_counter() - started
        rescore = folder / RESCORE_NAME
        started = time.perf_counter()
        index = VectorIndex(
            [folder / VECTORS_NAME], rescore if rescore.is_file() else None, settings
        )
        opened = time.perf_counter() - started
        ranked = [
            answer
            for at in range(0, len(queries), 500)
            for answer in index.rank(queries[at : at + 500], K)
        ]
        pairs = [(_ids(got), _ids(best)) for got, best in zip(ranked, truth, strict=True)]
        hits = sum(len(set(got) & set(best)) for got, best in pairs)
        ties = sum(_same_except_ties(got, best) for got, best in zip(ranked, truth, strict=True))
        speed = (
            {f"qps_{batch}": _speed(index, queries, batch, budget) for batch in BATCHES}
            if budget
            else {}
        )
        return {
            "kind": name,
            "rows": rows,
            "index_mb": (folder / VECTORS_NAME).stat().st_size / 1e6,
            "rescore_mb": rescore.stat().st_size / 1e6 if rescore.is_file() else 0.0,
            "build_s": built,
            "open_s": opened,
            "queries": len(queries),
            "recall_at_10": hits / (K * len(queries)),
            "same_ids": sum(got == best for got, best in pairs) / len(queries),
            "same_beside_ties": ties / len(queries),
            **speed,
        }


def _ids(ranked: Ranked) -> list[int]:
    return [row for row, _ in ranked]


def _speed(index: VectorIndex, queries: Array, batch: int, budget: float) -> float:
    done, started = 0, time.perf_counter()
    while time.perf_counter() - started < budget:
        start = done % max(1, len(queries) - batch)
        index.rank(queries[start : start + batch], K)
        done += batch
    return done / (time.perf_counter() - started)


def _real(index: Path, files: list[Path]) -> tuple[list[Array], Array]:
    from tspo_cli.data.readers import read_questions
    from tspo_cli.retrieval.dense.encoder import Encoder
    from tspo_cli.retrieval.manifest import read_manifest
    from tspo_cli.retrieval.search_settings import index_settings

    manifest = read_manifest(index)
    rows = FlatRows([index / VECTORS_NAME])
    dense = index_settings("dense", manifest["parameters"]).dense
    assert dense is not None
    texts = [question.question for file in files for question in read_questions(file)]
    queries = Encoder(manifest["encoder"], dense).encode_queries(texts)
    blocks = [
        np.array(rows.block(start, min(start + SHARD, len(rows))))
        for start in range(0, len(rows), SHARD)
    ]
    return blocks, queries


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[], help="synthetic vectors")
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument(
        "--kinds", nargs="+", default=[""], help="only kinds whose name contains one of these"
    )
    parser.add_argument("--budget", type=float, default=2.0, help="seconds per kind and batch size")
    parser.add_argument("--index", type=Path, help="flat index of `tspo index build`")
    parser.add_argument("--questions", type=Path, nargs="+", default=[])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    table = []
    sizes = options.rows or ([] if options.index else [10_000, 100_000])
    for rows in [*sizes, *([0] if options.index else [])]:
        with tempfile.TemporaryDirectory() as scratch:
            blocks: Iterable[Array]
            if rows:
                blocks = synthetic(rows, 1)
                queries = np.concatenate(list(synthetic(options.queries, 2)))
            else:
                blocks, queries = _real(options.index, options.questions)
                rows = sum(map(len, blocks))
            shards = ShardedVectors(Path(scratch), rows, SHARD, "float32")
            for shard, block in enumerate(blocks):
                shards.put(shard, block)
            truth = brute_force(shards, queries)
            for name, kind in kinds(rows).items():
                if any(part in name for part in options.kinds):
                    table.append(measure(name, kind, shards, queries, truth, options.budget))
                    if not options.json:
                        _print(table[-1], first=len(table) == 1)
    if options.json:
        print(json.dumps({"machine": machine(), "rows": table}, indent=2))


def _print(row: dict[str, Any], *, first: bool) -> None:
    if first:
        print(f"{machine()}; recall@{K} and id lists against numpy in float32\n")
        print(
            f"{'kind':<30}{'rows':>9}{'queries':>9}{'MB':>8}{'+MB':>7}{'build s':>9}{'recall':>9}",
            end="",
        )
        print(f"{'same':>9}{'ties':>9}" + "".join(f"{f'q/s @{batch}':>10}" for batch in BATCHES))
    speeds = [row.get(f"qps_{batch}") for batch in BATCHES]
    print(
        f"{row['kind']:<30}{row['rows']:>9}{row['queries']:>9}{row['index_mb']:>8.1f}{row['rescore_mb']:>7.1f}"
        f"{row['build_s']:>9.1f}{row['recall_at_10']:>9.5f}{row['same_ids']:>9.5f}{row['same_beside_ties']:>9.5f}"
        + "".join(f"{'-' if speed is None else format(speed, '.0f'):>10}" for speed in speeds),
        flush=True,
    )


if __name__ == "__main__":
    main()
