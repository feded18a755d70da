"""`tspo serve` under load, compared with the same index in this process: throughput, latency,
correct results, memory.

    python experiments/benchmarks/retrieval_server.py [--index DIR --questions FILE] [--clients 1 8
    64 512] [--json]

Without --index a BM25 index over a synthetic world of 20,000 entities is made first. Clients are
closed loops in this process, each with a connection and one query per request. On a small machine
they use part of the time that they measure, so CPU times are shown too. Every result is compared
with the serial one: ids in order; scores to 1e-5 for dense indexes, whose encoders round
differently in batches of other lengths, and to the last bit otherwise.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.benchmarks.http_load import Load, put_load
from tspo_cli.console import agreeing, counted

BATCH = 64
Expected = dict[str, list[tuple[str, float]]]


@contextmanager
def server(index: Path, *options: str) -> Iterator[tuple[int, int]]:
    """(port, process id) of a `tspo serve` in a process of its own."""
    command = [
        sys.executable,
        "-m",
        "tspo_cli",
        "serve",
        str(index),
        "--port",
        "0",
        "--json",
        *options,
    ]
    with (
        tempfile.TemporaryFile("w+") as messages,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=messages, text=True) as process,
    ):
        assert process.stdout is not None
        output = ""
        while not output.endswith("}\n"):
            line = process.stdout.readline()
            if not line:
                messages.seek(0)
                raise SystemExit(f"tspo serve ended before it was ready: {messages.read()[-2000:]}")
            output += line
        yield int(json.loads(output)["url"].rpartition(":")[2]), process.pid
        process.terminate()
        process.wait(timeout=30)


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> float:
    """Resident memory that is the process's own, without mapped files (Linux)."""
    lines = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return int(lines["RssAnon"].split()[0]) / 1024


def in_process(searcher: Any, queries: Sequence[str], k: int, batch: int) -> tuple[float, float]:
    """Queries per second of the index in this process, and CPU seconds per query."""
    start, cpu = time.perf_counter(), time.process_time()
    for at in range(0, len(queries), batch):
        searcher.search(queries[at : at + batch], k)
    return len(queries) / (time.perf_counter() - start), (time.process_time() - cpu) / len(queries)


def differences(load: Load, expected: Expected, tolerance: float) -> int:
    """Number of results whose ids or scores differ from the serial ones."""
    return sum(
        not _same(json.loads(body)["result"][0], expected[query], tolerance)
        for query, body in load.answers
    )


def _same(got: list[dict[str, Any]], expected: list[tuple[str, float]], tolerance: float) -> bool:
    pairs = [(hit["document"]["id"], hit["score"]) for hit in got]
    return len(pairs) == len(expected) and all(
        id_ == expected_id and abs(score - expected_score) <= tolerance
        for (id_, score), (expected_id, expected_score) in zip(pairs, expected, strict=True)
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Milliseconds."""
    ordered = sorted(values)
    return 1000 * ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def throughput(
    index: Path, searcher: Any, queries: Sequence[str], options: argparse.Namespace
) -> list[dict[str, Any]]:
    """Rounds of in-process batches and of each number of clients in turn, so that other load on the
    machine affects all alike.
    """
    k, tolerance = options.k, 1e-5 if searcher.manifest["kind"] != "bm25" else 0.0
    expected = {
        q: [(hit.id, hit.score) for hit in searcher.search([q], k)[0].hits] for q in queries
    }
    rows: dict[int, list[dict[str, Any]]] = {clients: [] for clients in options.clients}
    with server(index, "--cache-mb", "0", "--max-waiting", "100000") as (port, pid):
        put_load(port, queries[:200], k, 8)
        for _ in range(options.rounds):
            for clients in options.clients:
                sample = queries if clients > 1 else queries[: min(500, len(queries))]
                base, base_cpu = in_process(searcher, sample, k, BATCH if clients > 1 else 1)
                cpu = cpu_seconds(pid)
                load = put_load(port, sample, k, clients)
                rows[clients].append(
                    {
                        "qps": len(sample) / load.seconds,
                        "in_process_qps": base,
                        "ratio": len(sample) / load.seconds / base,
                        "best_ratio": len(sample) / load.seconds / base,
                        "p50_ms": percentile(load.latencies, 0.5),
                        "p95_ms": percentile(load.latencies, 0.95),
                        "p99_ms": percentile(load.latencies, 0.99),
                        "in_process_cpu_ms": 1000 * base_cpu,
                        "server_cpu_ms": 1000 * (cpu_seconds(pid) - cpu) / len(sample),
                        "client_cpu_ms": 1000 * load.client_cpu / len(sample),
                        "different": differences(load, expected, tolerance),
                        "failed": len(sample) - load.statuses[200],
                    }
                )
    summary: dict[str, Any] = {"different": sum, "failed": sum, "best_ratio": max}
    return [
        {"clients": clients}
        | {
            name: summary.get(name, statistics.median)([row[name] for row in rounds])
            for name in rounds[0]
        }
        for clients, rounds in rows.items()
    ]


def idle_latency(index: Path, searcher: Any, queries: Sequence[str], k: int) -> dict[str, float]:
    """One query at a time, in this process, over HTTP, and once more from the cache."""
    local, remote, cached = [], [], []
    with server(index) as (port, _):
        put_load(port, queries[:20], k, 1)
        for query in queries[20:320]:
            start = time.perf_counter()
            searcher.search([query], k)
            local.append(time.perf_counter() - start)
            remote += put_load(port, [query], k, 1).latencies
            cached += put_load(port, [query], k, 1).latencies
    return {
        "in_process_p50_ms": percentile(local, 0.5),
        "http_p50_ms": percentile(remote, 0.5),
        "added_p50_ms": percentile(remote, 0.5) - percentile(local, 0.5),
        "repeated_p50_ms": percentile(cached, 0.5),
    }


def repeated(index: Path, queries: Sequence[str], k: int) -> dict[str, float]:
    """Throughput of 64 clients if all results are in the cache."""
    few = list(queries[:200])
    with server(index) as (port, pid):
        put_load(port, few, k, 8)
        cpu = cpu_seconds(pid)
        load = put_load(port, few * 50, k, 64, keep=False)
        used = cpu_seconds(pid) - cpu
    return {"qps": 10_000 / load.seconds, "server_cpu_ms": 1000 * used / 10_000}


def overload(index: Path, queries: Sequence[str], k: int) -> dict[str, Any]:
    """1,000 clients while only 100 queries may wait: the statuses, and whether the server still
    answers.
    """
    with server(index, "--cache-mb", "0", "--max-queries", "100", "--max-waiting", "100") as (
        port,
        _,
    ):
        load = put_load(port, list(queries) * 2, k, 1000, keep=False)
        after = put_load(port, queries[:10], k, 1)
    return {
        "statuses": {str(status): count for status, count in sorted(load.statuses.items())},
        "with_retry_after": load.retry_after,
        "slowest_ms": percentile(load.latencies, 1.0),
        "afterwards_200": after.statuses[200],
    }


def soak(index: Path, queries: Sequence[str], k: int, requests: int) -> dict[str, float]:
    """Memory before and after many requests; the cache is small and full at the start, as in a long
    run.
    """
    with server(index, "--cache-mb", "4") as (port, pid):
        put_load(port, list(queries), k, 64, keep=False)
        put_load(port, (list(queries) * (10_000 // len(queries) + 1))[:10_000], k, 64, keep=False)
        before = memory_mb(pid)
        sent = 0
        while sent < requests:
            load = put_load(port, queries[: requests - sent], k, 64, keep=False)
            sent += load.statuses[200]
        after = memory_mb(pid)
    return {
        "requests": sent,
        "before_mb": before,
        "after_mb": after,
        "growth_percent": 100 * (after / before - 1),
    }


def make_index(folder: Path) -> tuple[Path, Path]:
    """A BM25 index over a synthetic world, and its questions."""
    tspo = [sys.executable, "-m", "tspo_cli", "--quiet"]
    world, index = folder / "world", folder / "index"
    make = [
        "data",
        "make-world",
        "--out",
        str(world),
        "--entities",
        "20000",
        "--train-questions",
        "4000",
    ]
    subprocess.run([*tspo, *make], check=True, stdout=subprocess.DEVNULL)
    build = ["index", "build", str(world / "corpus.jsonl"), "--out", str(index)]
    subprocess.run([*tspo, *build], check=True, stdout=subprocess.DEVNULL)
    return index, world / "train.jsonl"


def measure(index: Path, questions: Sequence[Path], options: argparse.Namespace) -> dict[str, Any]:
    """All figures of one index."""
    import random

    from tspo_cli.data.readers import read_questions
    from tspo_cli.retrieval.index.searcher import open_index

    queries = list(
        dict.fromkeys(question.question for file in questions for question in read_questions(file))
    )
    random.Random(0).shuffle(queries)
    queries = queries[: options.requests]
    searcher = open_index(index)
    in_process(searcher, queries[:200], options.k, BATCH)
    report: dict[str, Any] = {
        "index": {name: searcher.manifest[name] for name in ("kind", "passages", "encoder")},
        "queries": len(queries),
        "rounds": options.rounds,
        "load": throughput(index, searcher, queries, options),
        "idle": idle_latency(index, searcher, queries, options.k),
        "repeated": repeated(index, queries, options.k),
        "overload": overload(index, queries, options.k),
    }
    if options.soak:
        report["soak"] = soak(index, queries, options.k, options.soak)
    return report


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--index", type=Path, help="index directory [a BM25 index over a synthetic world]"
    )
    parser.add_argument(
        "--questions", type=Path, nargs="+", help="question files; their texts are the queries"
    )
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64, 512, 1000])
    parser.add_argument("--requests", type=int, default=4000, help="distinct queries per load")
    parser.add_argument("--rounds", type=int, default=3, help="the median round is shown")
    parser.add_argument("--k", type=int, default=3)
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count(), help="OMP threads, here and in the server"
    )
    parser.add_argument(
        "--soak", type=int, default=100_000, help="requests of the memory test; 0: none"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if (options.index is None) != (options.questions is None):
        parser.error("--index and --questions belong together")
    os.environ["OMP_NUM_THREADS"] = str(options.threads)  # before numpy and torch are imported
    with tempfile.TemporaryDirectory() as folder:
        index, questions = (
            (options.index, options.questions) if options.index else make_index(Path(folder))
        )
        report = measure(index, [questions] if isinstance(questions, Path) else questions, options)
    cores = len(os.sched_getaffinity(0))
    report = {
        "machine": (
            f"Python {platform.python_version()}, {platform.machine()}, {counted(cores, 'core')}, "
            f"OMP {options.threads}"
        ),
        "load_average": os.getloadavg()[0],
        **report,
    }
    print(json.dumps(report, indent=2) if options.json else as_text(report))


def as_text(report: dict[str, Any]) -> str:
    """The figures as a table."""
    index = report["index"]
    lines = [
        f"{report['machine']}; load average at the end {report['load_average']:.1f} (other work "
        "counts in it)",
        f"{index['kind']} index of {counted(index['passages'], 'passage')}; "
        f"{agreeing(report['queries'], 'distinct query', 'distinct queries')}, cache off, "
        f"median of {counted(report['rounds'], 'round')}\n",
        f"{'clients':>8}{'q/s':>9}{'in-process':>12}{'ratio':>7}"
        f"{'best':>6}{'p50 ms':>9}{'p95 ms':>9}"
        f"{'p99 ms':>9} | CPU ms/query:{'in-proc':>8}{'server':>8}{'client':>8} "
        f"|{'different':>10}{'failed':>8}",
    ]
    for row in report["load"]:
        lines.append(
            f"{row['clients']:>8}{row['qps']:>9.0f}{row['in_process_qps']:>12.0f}{row['ratio']:>7.2f}"
            f"{row['best_ratio']:>6.2f}{row['p50_ms']:>9.1f}{row['p95_ms']:>9.1f}"
            f"{row['p99_ms']:>9.1f} |"
            f"{row['in_process_cpu_ms']:>21.3f}{row['server_cpu_ms']:>8.3f}"
            f"{row['client_cpu_ms']:>8.3f} |"
            f"{row['different']:>10}{row['failed']:>8}"
        )
    lines.append("(in-process: batches of 64; with one client batches of 1)\n")
    for name in ("idle", "repeated", "overload", "soak"):
        if name in report:
            facts = (
                f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}"
                for key, value in report[name].items()
            )
            lines.append(f"{name:<10}" + ", ".join(facts))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
