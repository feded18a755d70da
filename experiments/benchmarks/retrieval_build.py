"""Passages per second and peak memory of `tspo index build` by corpus size, each build in a process of its own.

    python experiments/benchmarks/retrieval_build.py --kind bm25 --passages 10000 100000 1000000
    python experiments/benchmarks/retrieval_build.py --kind dense --encoder DIR --passages 10000 100000

Passages are made: invented words with the frequencies of Zipf's law, --words of them each. Peak is the largest
resident size of the process without pages of mapped files (the kernel's RssAnon), sampled every 20 ms. `open` is the
time until an opened index has answered one query.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

VOCABULARY = 200_000


def make_corpus(path: Path, passages: int, words: int) -> None:
    """A JSONL corpus of `passages` passages of about `words` words."""
    random = np.random.default_rng(0)
    with open(path, "w") as handle:
        for start in range(0, passages, 10_000):
            count = min(10_000, passages - start)
            lengths = random.integers(words // 2, words * 3 // 2 + 1, count)
            drawn = random.zipf(1.2, int(lengths.sum())) % VOCABULARY
            ends = np.cumsum(lengths)
            for row, (end, length) in enumerate(zip(ends.tolist(), lengths.tolist(), strict=True)):
                text = " ".join(f"w{word:x}" for word in drawn[end - length : end])
                handle.write(json.dumps({"id": str(start + row), "contents": f'"T{start + row}"\n{text}'}) + "\n")


def build(corpus: Path, out: Path, arguments: list[str]) -> dict[str, float]:
    """Seconds and peak memory in MB of one build."""
    command = [sys.executable, "-m", "tspo_cli", "-q", "index", "build", str(corpus), "--out", str(out), *arguments]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak = 0
    while process.poll() is None:
        peak = max(peak, _anonymous_kb(process.pid))
        time.sleep(0.02)
    if process.returncode:
        raise SystemExit(f"the build failed with exit code {process.returncode}")
    return {"seconds": time.perf_counter() - began, "peak_mb": peak / 1000}


def _anonymous_kb(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("RssAnon")), 0)


def opened(out: Path) -> dict[str, float]:
    """Seconds to import, to open the index and to answer the first query, in a fresh process."""
    program = (
        "import sys, time; from pathlib import Path; from tspo_cli.retrieval.index import open_index; "
        "import tspo_cli.retrieval.bm25; start = time.perf_counter(); index = open_index(Path(sys.argv[1])); "
        "middle = time.perf_counter(); index.search(['w3 w1f w2a0'], 10); end = time.perf_counter(); "
        "index.search(['w4 w1e w2a1'], 10); print(middle - start, end - middle, time.perf_counter() - end)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(out)], check=True, capture_output=True, text=True)
    names = ("open_s", "first_query_s", "second_query_s")
    return dict(zip(names, map(float, done.stdout.split()), strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=["bm25", "dense"], default="bm25")
    parser.add_argument("--encoder", default="")
    parser.add_argument("--passages", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--words", type=int, default=40)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    arguments = ["--kind", options.kind, *(["--encoder", options.encoder] if options.encoder else [])]
    arguments += [part for pair in options.set for part in ("--set", pair)]
    table: list[dict[str, Any]] = []
    for passages in options.passages:
        with tempfile.TemporaryDirectory() as scratch:
            corpus, out = Path(scratch) / "corpus.jsonl", Path(scratch) / "index"
            make_corpus(corpus, passages, options.words)
            row = {"kind": options.kind, "passages": passages, **build(corpus, out, arguments), **opened(out)}
            row["passages_per_s"] = passages / row["seconds"]
            row["index_mb"] = sum(path.stat().st_size for path in out.iterdir()) / 1e6
            table.append(row)
            if not options.json:
                _print(row, first=len(table) == 1)
    if options.json:
        print(json.dumps({"machine": _machine(), "words": options.words, "rows": table}, indent=2))


def _print(row: dict[str, Any], *, first: bool) -> None:
    columns = ("seconds", "passages_per_s", "peak_mb", "index_mb", "open_s", "first_query_s", "second_query_s")
    if first:
        print(_machine() + "\n")
        print(f"{'kind':<8}{'passages':>10}" + "".join(f"{name:>16}" for name in columns))
    print(f"{row['kind']:<8}{row['passages']:>10}" + "".join(f"{row[name]:>16.3f}" for name in columns), flush=True)


def _machine() -> str:
    return f"{platform.machine()}, {os.cpu_count()} cores, OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset')}"


if __name__ == "__main__":
    main()
