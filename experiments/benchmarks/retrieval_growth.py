"""How an index grows from 10,000 to 1,000,000 passages: build rate, peak memory, open time, queries
per second.

    python experiments/benchmarks/retrieval_growth.py
    python experiments/benchmarks/retrieval_growth.py --passages 10000 100000 --kinds bm25 SQ8

bm25 is built by `tspo index build` over generated passages. For dense kinds the vectors of 384
dimensions are generated, because an encoder's speed does not depend on the size of a corpus; the
time is that from shards to the index file. Every row is a process; `peak` is anonymous memory,
`extra` the memory beyond the first row of its kind. Rates are per second of CPU time: run it with
OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.benchmarks.common import machine, run_python
from experiments.benchmarks.retrieval_build import print_row, rows
from experiments.benchmarks.retrieval_search import DIM, SHARD, synthetic
from tspo_cli.config.sections.index_settings import DenseSettings
from tspo_cli.retrieval.dense.dense_ranker import (
    RESCORE_NAME,
    VECTORS_NAME,
    VectorIndex,
    write_vectors,
)
from tspo_cli.retrieval.dense.vectors import ShardedVectors

KINDS: dict[str, dict[str, Any]] = {
    "flat fp32": {},
    "SQ8 + fp16 re-score": {"factory": "SQ8", "rescore": "float16"},
    "IVF PQ48 + re-score": {"factory": "IVF{lists},PQ48", "rescore": "float16", "candidates": 400},
}


def vectors_row(kind: str, count: int) -> dict[str, Any]:
    """Index `count` generated vectors, and measure all but the memory, in this process."""
    options = dict(KINDS[kind])
    if "factory" in options:
        options["factory"] = options["factory"].format(lists=max(16, int(count**0.5) // 16 * 16))
    settings = DenseSettings(**options)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        shards = ShardedVectors(folder / "shards", count, SHARD, "float32")
        for shard, block in enumerate(synthetic(count, 1)):
            shards.put(shard, block)
        started, spent = time.perf_counter(), time.process_time()
        write_vectors(shards, count, DIM, folder, settings)
        seconds, cpu = time.perf_counter() - started, time.process_time() - spent
        files = [path for path in (folder / VECTORS_NAME, folder / RESCORE_NAME) if path.is_file()]
        started = time.perf_counter()
        index = VectorIndex(files[:1], files[1] if len(files) > 1 else None, settings)
        opened = time.perf_counter()
        queries = next(iter(synthetic(500, 2)))
        index.rank(queries[:1], 10)
        first, spent = time.perf_counter(), time.process_time()
        done = 0
        while time.process_time() - spent < 2:
            index.rank(queries[done % 500 : done % 500 + 1], 10)
            done += 1
        return {
            "kind": kind,
            "passages": count,
            "seconds": seconds,
            "cpu_s": cpu,
            "passages_per_cpu_s": count / cpu,
            "index_mb": sum(path.stat().st_size for path in files) / 1e6,
            "open_s": opened - started,
            "first_query_s": first - opened,
            "queries_per_cpu_s": done / (time.process_time() - spent),
        }


def main() -> None:
    if sys.argv[1:2] == ["row"]:
        print(json.dumps(vectors_row(sys.argv[2], int(sys.argv[3]))))
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--passages", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument(
        "--kinds", nargs="+", default=[""], help="only kinds whose name contains one of these"
    )
    parser.add_argument("--words", type=int, default=40, help="of a passage, for bm25")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    table: list[dict[str, Any]] = []

    def add(row: dict[str, Any]) -> None:
        table.append(row)
        if not options.json:
            print_row(row, first=len(table) == 1)

    for kind in ("bm25", *KINDS):
        if not any(part in kind for part in options.kinds):
            continue
        if kind == "bm25":
            for row in rows(kind, options.passages, options.words, []):
                add(row)
            continue
        base = 0.0
        for count in options.passages:
            done = run_python([__file__, "row", kind, str(count)])
            base = base or done.peak_mb
            add(
                {
                    **json.loads(done.output),
                    "peak_mb": done.peak_mb,
                    "extra_mb": done.peak_mb - base,
                }
            )
    if options.json:
        print(json.dumps({"machine": machine(), "words": options.words, "rows": table}, indent=2))


if __name__ == "__main__":
    main()
