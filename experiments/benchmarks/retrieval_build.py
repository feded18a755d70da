"""Passages per second and peak memory of `tspo index build` by corpus size.

    python experiments/benchmarks/retrieval_build.py --kind bm25 --passages 10000 100000 1000000
    python experiments/benchmarks/retrieval_build.py --kind dense --passages 10000 100000

Every build is a process. Passages are generated: --words invented words each, with the frequencies
of Zipf's law. A dense index has a tiny encoder with random weights unless --encoder names another.
`peak` is anonymous memory; `extra` is the memory beyond a build of 100 passages, whose peak is that
of the libraries and the encoder. `open` is the time to open an index after the libraries are
loaded. Queries are searched one at a time. Rates are per second of CPU time, which other load on
the machine hardly changes: run it with OMP_NUM_THREADS=1.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from experiments.benchmarks.common import machine, make_corpus, make_encoder, run_python

SEARCH_COLUMNS = ("open_s", "first_query_s", "queries_per_cpu_s")
COLUMNS = {
    "seconds": "wall s",
    "cpu_s": "CPU s",
    "passages_per_cpu_s": "passages/CPU s",
    "peak_mb": "peak MB",
    "extra_mb": "extra MB",
    "index_mb": "index MB",
    "open_s": "open s",
    "first_query_s": "first query s",
    "queries_per_cpu_s": "queries/CPU s",
}
FEW = 100
_SEARCH = """
import random, sys, time
from pathlib import Path
from tspo_cli.retrieval.index.searcher import open_index
path = Path(sys.argv[1])
open_index(path)  # loads the libraries
draw = random.Random(0)
start = time.perf_counter()
index = open_index(path)
opened = time.perf_counter()
index.search(["w3 w1f w2a0"], 10)
first, spent = time.perf_counter(), time.process_time()
done = 0
while time.process_time() - spent < 2:
    index.search([" ".join(f"w{int(draw.paretovariate(0.2)) % 200_000:x}" for _ in range(6))], 10)
    done += 1
print(opened - start, first - opened, done / (time.process_time() - spent))
"""


def build(corpus: Path, out: Path, arguments: list[str]) -> dict[str, float]:
    """Seconds and peak memory in MB of one build."""
    command = ["-m", "tspo_cli", "-q", "index", "build", str(corpus), "--out", str(out), *arguments]
    done = run_python(command)
    return {"seconds": done.seconds, "cpu_s": done.cpu_s, "peak_mb": done.peak_mb}


def opened(out: Path) -> dict[str, float]:
    """Seconds to open the index and to answer the first query, then queries per second, in a new
    process.
    """
    values = run_python(["-c", _SEARCH, str(out)]).output.split()
    return dict(zip(SEARCH_COLUMNS, map(float, values), strict=True))


def rows(kind: str, sizes: list[int], words: int, arguments: list[str]) -> Iterator[dict[str, Any]]:
    """A row of the table for each size, as soon as it is measured."""
    with tempfile.TemporaryDirectory() as scratch:
        if kind == "dense" and "--encoder" not in arguments:
            arguments = [*arguments, "--encoder", make_encoder(Path(scratch) / "encoder")]
        base = 0.0
        for passages in (FEW, *sizes):
            corpus, out = Path(scratch) / f"{passages}.jsonl", Path(scratch) / f"{passages}.index"
            make_corpus(corpus, passages, words)
            row: dict[str, Any] = {"kind": kind, "passages": passages}
            row |= build(corpus, out, ["--kind", kind, *arguments])
            base = base or row["peak_mb"]
            if passages > FEW:
                row |= opened(out)
                row["extra_mb"] = row["peak_mb"] - base
                row["passages_per_cpu_s"] = passages / row["cpu_s"]
                row["index_mb"] = sum(path.stat().st_size for path in out.iterdir()) / 1e6
                yield row


def print_row(row: dict[str, Any], *, first: bool) -> None:
    """One line of the table, after its head."""
    if first:
        print(
            f"{machine()}\n\n{'kind':<22}{'passages':>9}"
            + "".join(f"{head:>15}" for head in COLUMNS.values())
        )
    values = "".join(f"{row[name]:>15.2f}" for name in COLUMNS)
    print(f"{row['kind']:<22}{row['passages']:>9}{values}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", choices=["bm25", "dense"], default="bm25")
    parser.add_argument("--encoder", default="")
    parser.add_argument("--passages", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--words", type=int, default=40)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    arguments = ["--encoder", options.encoder] if options.encoder else []
    arguments += [part for pair in options.set for part in ("--set", pair)]
    table = []
    for row in rows(options.kind, options.passages, options.words, arguments):
        table.append(row)
        if not options.json:
            print_row(row, first=len(table) == 1)
    if options.json:
        print(json.dumps({"machine": machine(), "words": options.words, "rows": table}, indent=2))


if __name__ == "__main__":
    main()
