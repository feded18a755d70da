"""Every kind of vector file on the same vectors: size, recall against brute force, queries per second by batch.

    python experiments/benchmarks/retrieval_search.py                        synthetic vectors, 10k and 100k rows
    python experiments/benchmarks/retrieval_search.py --rows 1000000
    python experiments/benchmarks/retrieval_search.py --index DIR --questions FILE...     real vectors and questions

Synthetic vectors lie around centres, 384 numbers each. --index takes the vectors of a flat index of `tspo index build`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tspo_cli.retrieval.dense import RESCORE_NAME, VECTORS_NAME, VectorIndex, write_vectors
from tspo_cli.retrieval.faiss_files import FlatRows
from tspo_cli.retrieval.settings import DenseSettings
from tspo_cli.retrieval.vectors import ShardedVectors

DIM, SHARD, K = 384, 10_000, 10
BATCHES = (1, 16, 64)
Array = NDArray[np.float32]


def kinds(rows: int) -> dict[str, dict[str, Any]]:
    """Names of the table, and the settings behind them. Lists of an IVF: about the square root of the rows."""
    lists = max(16, int(rows**0.5) // 16 * 16)
    return {
        "flat fp32": {},
        "flat fp32, torch": {"backend": "torch"},
        "flat fp32, torch int8 first": {"backend": "torch", "first_pass": "int8"},
        "flat fp16": {"factory": "SQfp16"},
        "SQ8": {"factory": "SQ8"},
        "SQ8 + fp16 re-score": {"factory": "SQ8", "rescore": "float16"},
        f"IVF{lists},Flat nprobe 32": {"factory": f"IVF{lists},Flat"},
        f"IVF{lists},PQ48": {"factory": f"IVF{lists},PQ48"},
        f"IVF{lists},PQ48 + fp16 re-score": {"factory": f"IVF{lists},PQ48", "rescore": "float16", "candidates": 400},
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


def brute_force(shards: ShardedVectors, queries: Array) -> list[list[int]]:
    """The best K rows of each query by numpy in float32."""
    best = np.full((len(queries), 0), 0, np.float32)
    rows = np.zeros((len(queries), 0), np.int64)
    for shard in range(shards.shards):
        start, stop = shards.span(shard)
        scores = queries @ shards.block(shard).T
        best = np.concatenate([best, scores], axis=1)
        rows = np.concatenate([rows, np.tile(np.arange(start, stop), (len(queries), 1))], axis=1)
        order = np.argsort(-best, axis=1, kind="stable")[:, :K]
        best, rows = np.take_along_axis(best, order, 1), np.take_along_axis(rows, order, 1)
    return [[int(at) for at in row] for row in rows]


def measure(
    name: str, options: dict[str, Any], shards: ShardedVectors, queries: Array, truth: list[list[int]], budget: float
) -> dict[str, Any]:
    """One row of the table; each batch size is driven for about `budget` seconds."""
    settings = DenseSettings(**options)
    rows = sum(len(range(*shards.span(shard))) for shard in range(shards.shards))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        began = time.perf_counter()
        write_vectors(shards, rows, queries.shape[1], folder, settings)
        built = time.perf_counter() - began
        rescore = folder / RESCORE_NAME
        began = time.perf_counter()
        index = VectorIndex([folder / VECTORS_NAME], rescore if rescore.is_file() else None, settings)
        opened = time.perf_counter() - began
        found = [[at for at, _ in ranked] for ranked in index.rank(queries, K)]
        hits = [len(set(mine) & set(best)) for mine, best in zip(found, truth, strict=True)]
        same = sum(mine == best for mine, best in zip(found, truth, strict=True))
        speed = {f"qps_{batch}": _speed(index, queries, batch, budget) for batch in BATCHES}
        return {
            "kind": name,
            "rows": rows,
            "index_mb": (folder / VECTORS_NAME).stat().st_size / 1e6,
            "rescore_mb": rescore.stat().st_size / 1e6 if rescore.is_file() else 0.0,
            "build_s": built,
            "open_s": opened,
            "recall_at_10": sum(hits) / (K * len(queries)),
            "same_ids": same / len(queries),
            **speed,
        }


def _speed(index: VectorIndex, queries: Array, batch: int, budget: float) -> float:
    done, began = 0, time.perf_counter()
    while time.perf_counter() - began < budget:
        start = done % max(1, len(queries) - batch)
        index.rank(queries[start : start + batch], K)
        done += batch
    return done / (time.perf_counter() - began)


def _real(index: Path, files: list[Path]) -> tuple[list[Array], Array]:
    from tspo_cli.data.readers import read_questions
    from tspo_cli.retrieval.encoder import Encoder
    from tspo_cli.retrieval.manifest import read_manifest
    from tspo_cli.retrieval.settings import index_settings

    manifest = read_manifest(index)
    rows = FlatRows([index / VECTORS_NAME])
    dense = index_settings("dense", manifest["parameters"]).dense
    assert dense is not None
    asked = [question.question for file in files for question in read_questions(file)]
    queries = Encoder(manifest["encoder"], dense).encode_queries(asked)
    blocks = [np.array(rows.block(at, min(at + SHARD, len(rows)))) for at in range(0, len(rows), SHARD)]
    return blocks, queries


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--kinds", nargs="+", default=[""], help="only kinds whose name contains one of these")
    parser.add_argument("--budget", type=float, default=2.0, help="seconds per kind and batch size")
    parser.add_argument("--index", type=Path, help="flat index of `tspo index build`")
    parser.add_argument("--questions", type=Path, nargs="+", default=[])
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    table = []
    for rows in [0] if options.index else options.rows:
        with tempfile.TemporaryDirectory() as scratch:
            if options.index:
                blocks, queries = _real(options.index, options.questions)
                rows = sum(map(len, blocks))
            else:
                blocks, queries = synthetic(rows, 1), next(iter(synthetic(options.queries, 2)))
            shards = ShardedVectors(Path(scratch), rows, SHARD, "float32")
            for shard, block in enumerate(blocks):
                shards.put(shard, block)
            truth = brute_force(shards, queries)
            for name, kind in kinds(rows).items():
                if any(part in name for part in options.kinds):
                    table.append(measure(name, kind, shards, queries, truth, options.budget))
                    if not options.json:
                        _print(table[-1], first=len(table) == 1, queries=len(queries))
    if options.json:
        print(json.dumps({"machine": _machine(), "rows": table}, indent=2))


def _print(row: dict[str, Any], *, first: bool, queries: int) -> None:
    if first:
        print(f"{_machine()}; recall@{K} and identical id lists against numpy float32 over {queries} queries\n")
        print(f"{'kind':<30}{'rows':>9}{'MB':>8}{'+MB':>7}{'build s':>9}{'recall':>8}{'same':>7}", end="")
        print("".join(f"{f'q/s @{batch}':>10}" for batch in BATCHES))
    print(
        f"{row['kind']:<30}{row['rows']:>9}{row['index_mb']:>8.1f}{row['rescore_mb']:>7.1f}{row['build_s']:>9.1f}"
        f"{row['recall_at_10']:>8.4f}{row['same_ids']:>7.3f}"
        + "".join(f"{row[f'qps_{batch}']:>10.0f}" for batch in BATCHES),
        flush=True,
    )


def _machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}"


if __name__ == "__main__":
    main()
