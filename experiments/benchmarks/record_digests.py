"""What the digests of a run cost: bytes, the time to note them and the time to check them.

    python -m experiments.benchmarks.record_digests RUN [RUN ...] [--json]

A copy of each run directory loses its digests. Then every record that had one gets it again, one
after the other, as a training notes them, and is read with and without a check. Seconds are CPU
seconds; those of the training are in its timings.jsonl.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from experiments.benchmarks.common import machine
from tspo_cli.console import counted
from tspo_cli.record_digests import DIGESTS_NAME, digests_in, note_digests, read_checked
from tspo_cli.runs import TIMINGS_NAME, read_jsonl


def seconds_of(work: Callable[[Path], object], paths: Iterable[Path]) -> float:
    """CPU seconds of `work` on all paths."""
    began = time.process_time()
    for path in paths:
        work(path)
    return time.process_time() - began


def costs(run: Path) -> dict[str, Any]:
    """Bytes and seconds of one run."""
    with tempfile.TemporaryDirectory() as scratch:
        copy = Path(shutil.copytree(run, Path(scratch) / "run"))
        lists = sorted(copy.rglob(DIGESTS_NAME))
        records = [path.parent / name for path in lists for name in digests_in(path.parent)]
        digest_bytes = sum(path.stat().st_size for path in lists)
        for path in lists:
            path.unlink()
        plain = seconds_of(Path.read_bytes, records)
        noted = seconds_of(note_digests, records)
        checked = seconds_of(read_checked, records)
        written = sum(path.stat().st_size for path in copy.rglob("*") if path.is_file())
        return {
            "run": str(run),
            "records": len(records),
            "record_bytes": sum(path.stat().st_size for path in records),
            "digest_bytes": digest_bytes,
            "run_bytes": written,
            "note_seconds": noted,
            "check_seconds": checked - plain,
            "training_seconds": sum(row["cpu"] for row in read_jsonl(run / TIMINGS_NAME)),
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = [costs(run) for run in options.runs]
    if options.json:
        print(json.dumps({"machine": machine(), "runs": rows}, indent=2))
        return
    print(machine())
    for row in rows:
        print(
            f"{row['run']}: {counted(row['records'], 'record')}, {row['record_bytes']:,} bytes; "
            f"digests {row['digest_bytes']:,} bytes, "
            f"{row['digest_bytes'] / row['record_bytes']:.1%} of them and "
            f"{row['digest_bytes'] / row['run_bytes']:.2%} of the run; noted in "
            f"{1e3 * row['note_seconds']:.1f} ms, "
            f"{row['note_seconds'] / row['training_seconds']:.3%} of the training's "
            f"{row['training_seconds']:.1f} s; checked in {1e3 * row['check_seconds']:.1f} ms more "
            "than reading takes"
        )


if __name__ == "__main__":
    main()
