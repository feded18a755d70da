"""Exact search over random vectors in GPU memory, and a server of the same index under load.

    python experiments/benchmarks/retrieval_gpu.py    21 million x 768: 46 GB on disk
    python experiments/benchmarks/retrieval_gpu.py --rows 200000 --folder /dev/shm/x

The index: a float16 flat file of random vectors of length one, passages of 600 bytes, an encoder
with the shape of E5-base and random weights. Search: `VectorIndex.rank` (first pass, exact scores
from the file) by batch and first pass; its results are compared with float32 products over all
rows. Server: `tspo serve` and clients that send one query at a time over HTTP, which includes
encoding, search and passages.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.benchmarks.common import machine, make_encoder
from experiments.benchmarks.http_load import put_load
from experiments.benchmarks.retrieval_server import memory_mb, percentile, server
from tspo_cli.config.sections.index_settings import DenseSettings
from tspo_cli.retrieval.dense.dense_ranker import VectorIndex, empty_index
from tspo_cli.retrieval.dense.encoder import encoder_digest
from tspo_cli.retrieval.dense.faiss_files import flat_head
from tspo_cli.retrieval.manifest import MANIFEST_NAME, file_facts, make_manifest
from tspo_cli.retrieval.passages import OFFSETS_NAME, PASSAGES_NAME
from tspo_cli.retrieval.search_settings import index_settings
from tspo_cli.retrieval.types import VECTORS_NAME
from tspo_cli.runs import write_json

DIM, K, CHECKED, BLOCK = 768, 3, 256, 1 << 17
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def write_vectors(path: Path, rows: int, queries: torch.Tensor) -> NDArray[np.int64]:
    """A float16 flat file of random vectors; the best K rows of each query in float32, [n, K]."""
    random = torch.Generator(DEVICE).manual_seed(0)
    best = torch.full((len(queries), K), -2.0, device=DEVICE)
    rows_of_best = torch.zeros((len(queries), K), dtype=torch.int64, device=DEVICE)
    with open(path, "wb") as handle:
        handle.write(flat_head(empty_index(DIM, "SQfp16"), rows))
        for start in range(0, rows, BLOCK):
            block = torch.randn(min(BLOCK, rows - start), DIM, generator=random, device=DEVICE)
            half = torch.nn.functional.normalize(block).half()
            top = (queries @ half.float().T).topk(K, dim=1)
            best, order = torch.cat([best, top.values], dim=1).topk(K, dim=1)
            indices = torch.cat([rows_of_best, top.indices + start], dim=1)
            rows_of_best = indices.gather(1, order)
            handle.write(half.cpu().numpy().tobytes())
    return rows_of_best.cpu().numpy()


def write_passages(folder: Path, rows: int) -> None:
    """Passages of one length, so that their offsets need no counting."""
    text = (
        "a passage of invented words, as long as those of an encyclopedia cut to a hundred words "
        * 7
    )
    head, tail = b'{"id": "', f'", "contents": "\\"T\\"\\n{text[:560]}"}}\n'.encode()
    line = np.frombuffer(head + b"00000000" + tail, np.uint8)
    powers = 10 ** np.arange(7, -1, -1)
    with open(folder / PASSAGES_NAME, "wb") as handle:
        for start in range(0, rows, BLOCK):
            numbers = np.arange(start, min(start + BLOCK, rows))
            lines = np.tile(line, (len(numbers), 1))
            lines[:, len(head) : len(head) + 8] = numbers[:, None] // powers % 10 + ord("0")
            handle.write(lines.tobytes())
    np.save(
        folder / OFFSETS_NAME, np.arange(rows + 1, dtype=np.int64) * len(line), allow_pickle=False
    )


def make_index(
    folder: Path, rows: int, queries: torch.Tensor
) -> tuple[dict[str, float], NDArray[np.int64]]:
    """Make an index of random vectors; returns seconds by part, and exact results of `queries`."""
    started = time.perf_counter()
    exact = write_vectors(folder / VECTORS_NAME, rows, queries)
    vectors = time.perf_counter()
    write_passages(folder, rows)
    encoder = make_encoder(folder / "encoder", hidden=DIM, layers=12, heads=12)
    settings = index_settings("dense", {"factory": "SQfp16"})
    facts = {name: _facts(folder / name) for name in (VECTORS_NAME, PASSAGES_NAME, OFFSETS_NAME)}
    corpus = {"path": str(folder / PASSAGES_NAME), "sha256": ""}
    write_json(
        folder / MANIFEST_NAME,
        make_manifest(
            kind="dense",
            passages=rows,
            corpus=corpus,
            settings=settings,
            encoder=encoder,
            encoder_sha256=encoder_digest(encoder),
            files=facts,
        ),
    )
    return {
        "write vectors": vectors - started,
        "write passages": time.perf_counter() - vectors,
    }, exact


def _facts(path: Path) -> dict[str, Any]:
    """Size and digest; of files too large to be digested on opening, the size."""
    large = path.stat().st_size > 64 * 2**20
    return {"bytes": path.stat().st_size, "sha256": ""} if large else file_facts(path)


def search(
    folder: Path,
    first_pass: str,
    queries: NDArray[np.float32],
    exact: NDArray[np.int64],
    batches: list[int],
) -> dict[str, Any]:
    """Queries per second by batch, seconds to open, GiB on the GPU, and results that are not
    `exact`.
    """
    if DEVICE == "cuda":
        torch.cuda.reset_peak_memory_stats()
    started = time.perf_counter()
    settings = DenseSettings(
        factory="SQfp16", backend="torch", first_pass=first_pass, device=DEVICE
    )
    index = VectorIndex([folder / VECTORS_NAME], None, settings)
    opened = time.perf_counter() - started
    results = [[position for position, _ in ranked] for ranked in index.rank(queries[:CHECKED], K)]
    rows = []
    for batch in batches:
        seconds, scan = [], []
        for repeat in range(3 if batch > 1 else 10):
            sample = np.roll(queries, repeat * batch, axis=0)[:batch]
            start = time.perf_counter()
            index.rank(sample, K)
            seconds.append(time.perf_counter() - start)
            start = time.perf_counter()
            index._index.search(sample, K + 16)
            scan.append(time.perf_counter() - start)
        rows.append(
            {
                "batch": batch,
                "qps": batch / statistics.median(seconds),
                "ms": 1000 * statistics.median(seconds),
                "first_pass_ms": 1000 * statistics.median(scan),
            }
        )
    peak = torch.cuda.max_memory_allocated() / 2**30 if DEVICE == "cuda" else 0.0
    return {
        "first_pass": first_pass,
        "open_s": opened,
        "gpu_gib": peak,
        "different": sum(got != row for got, row in zip(results, exact.tolist(), strict=True)),
        "checked": len(results),
        "batches": rows,
    }


def end_to_end(
    folder: Path, first_pass: str, clients: list[int], requests: int, max_batch: int
) -> dict[str, Any]:
    """The server under closed-loop clients without a cache: throughput, latency, idle latency,
    memory.
    """
    options = ["--cache-mb", "0", "--max-waiting", "100000", "--max-batch", str(max_batch)]
    for setting in ("backend=torch", f"first_pass={first_pass}", f"device={DEVICE}"):
        options += ["--set", setting]
    if DEVICE == "cuda":
        options += ["--set", "dtype=float16", "--set", "batch_size=1024"]
    words = np.random.default_rng(1).integers(0, 16**4, (requests, 10))
    queries = [" ".join(f"w{word:x}" for word in row) for row in words.tolist()]
    started = time.perf_counter()
    rows = []
    with server(folder, *options) as (port, pid):
        opened = time.perf_counter() - started
        put_load(port, queries[:2000], K, 64, keep=False)
        idle = put_load(port, queries[:100], K, 1, keep=False)
        for count in clients:
            load = put_load(port, queries, K, count, keep=False)
            rows.append(
                {
                    "clients": count,
                    "qps": requests / load.seconds,
                    **{
                        f"p{share}_ms": percentile(load.latencies, share / 100)
                        for share in (50, 95, 99)
                    },
                    "client_cpu_ms": 1000 * load.client_cpu / requests,
                    "failed": requests - load.statuses[200],
                }
            )
        memory = memory_mb(pid)
    return {
        "first_pass": first_pass,
        "max_batch": max_batch,
        "ready_s": opened,
        "idle_p50_ms": percentile(idle.latencies, 0.5),
        "anonymous_memory_mb": memory,
        "load": rows,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows", type=int, default=21_015_324, help="passages; wiki-18 has the default's number"
    )
    parser.add_argument("--folder", type=Path, help="where the index is made [a temporary folder]")
    parser.add_argument("--first-pass", nargs="+", default=["float16", "int8"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64, 256])
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 64, 512])
    parser.add_argument("--max-batch", type=int, nargs="+", default=[256])
    parser.add_argument("--requests", type=int, default=20_000, help="of each load; 0: no server")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    random = torch.Generator(DEVICE).manual_seed(1)
    queries = torch.nn.functional.normalize(torch.randn(1024, DIM, generator=random, device=DEVICE))
    folder = Path(tempfile.mkdtemp(dir=args.folder))
    try:
        seconds, exact = make_index(folder, args.rows, queries[:CHECKED])
        vectors = queries.cpu().numpy()
        report: dict[str, Any] = {
            "machine": (
                f"{torch.cuda.get_device_name() if DEVICE == 'cuda' else 'no GPU'}; {machine()}"
            ),
            "rows": args.rows,
            "made_s": seconds,
            "search": [],
            "server": [],
        }
        for first_pass in args.first_pass:
            report["search"].append(search(folder, first_pass, vectors, exact, args.batches))
            show(report["search"][-1], args.json)
            gc.collect()
            torch.cuda.empty_cache()
        for max_batch in args.max_batch if args.requests else []:
            report["server"].append(
                end_to_end(folder, args.first_pass[0], args.clients, args.requests, max_batch)
            )
            show(report["server"][-1], args.json)
    finally:
        shutil.rmtree(folder)
    if args.json:
        print(json.dumps(report, indent=2))
    else:
        print(f"{report['machine']}; {args.rows} x {DIM}; {report['made_s']}")


def show(part: dict[str, Any], as_json: bool) -> None:
    """Print one part as a table as soon as it is measured."""
    if as_json:
        return
    rows = part.get("batches") or part.get("load") or []
    print(
        ", ".join(
            f"{key} {_short(value)}" for key, value in part.items() if not isinstance(value, list)
        )
    )
    for row in rows:
        print("   ", ", ".join(f"{key} {_short(value)}" for key, value in row.items()), flush=True)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
