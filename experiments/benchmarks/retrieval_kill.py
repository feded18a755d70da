"""A dense build that is killed repeatedly: does it resume, and does it give the same bytes?

    python experiments/benchmarks/retrieval_kill.py --passages 100000 --kills 20

One build runs without interruption. Another gets SIGKILL at a random point, is started again, and
so on. Kill points are drawn from the writing file operations of a build, each with a random delay
after it, in four parts: before the first shard of vectors, among the shards, after the last shard
(index file, digests, manifest), and after the rename to the target. After every kill the script
checks that no finished shard was written again, so that a kill costs at most one shard. Passages
and the encoder are generated. Builds are forked, so that the libraries are loaded once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # threads do not survive a fork
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from experiments.benchmarks.common import machine, make_corpus, make_encoder
from tspo_cli.config.sections.index_settings import DenseSettings
from tspo_cli.console import counted, set_quiet
from tspo_cli.retrieval.dense.dense_build import build_dense  # noqa: F401
from tspo_cli.retrieval.dense.encoder import Encoder
from tspo_cli.retrieval.index.build_index import build_index

OPERATIONS = {"open", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}
PARTS = {"before": (0.2, 0.5), "shards": (0.45, 0.5), "index": (0.25, 0.05), "moved": (0.1, 0.0)}
"""Share of the kills, and the most seconds between the operation and the kill."""


class Steps:
    """The file operations of this process below a folder, by names that are the same in every
    build.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._process = f".{os.getpid()}."
        self._seen: Counter[str] = Counter()

    def name(self, event: str, arguments: tuple[Any, ...]) -> str | None:
        """The name of an audit event; None if it is no such operation."""
        if event not in OPERATIONS or not isinstance(arguments[0], str | os.PathLike):
            return None
        if event == "open" and not set("wax+") & set(arguments[1] or ""):
            return None
        path = os.fspath(arguments[0])
        if not path.startswith(self._folder):
            return None
        step = f"{event} {path.removeprefix(self._folder).replace(self._process, '.')}"
        self._seen[step] += 1
        return f"{step} #{self._seen[step]}"


def record(folder: Path, log: Path) -> None:
    """Write the steps of this process to `log`."""
    steps = Steps(folder)
    handle = open(log, "w", buffering=1)  # noqa: SIM115

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if step := steps.name(event, arguments):
            handle.write(step + "\n")

    sys.addaudithook(watch)


def kill_at(order: dict[str, int], index: int, delay: float, folder: Path) -> None:
    """Kill this process `delay` seconds after its first step with `index` or more in `order`."""
    steps = Steps(folder)
    started = False

    def kill() -> None:
        time.sleep(delay)
        os.kill(os.getpid(), signal.SIGKILL)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal started
        step = steps.name(event, arguments)
        if step is not None and not started and order.get(step, -1) >= index:
            started = True
            threading.Thread(target=kill).start() if delay else kill()

    sys.addaudithook(watch)


def forked(prepare: Any, corpus: Path, out: Path, options: dict[str, Any]) -> tuple[int, float]:
    """Exit code (-9: killed) and seconds of one build; `prepare` is called in its process first."""
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        try:
            prepare()
            build_index(corpus, out, **options)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), time.monotonic() - started


def kill_points(log: list[str], kills: int, draw: random.Random) -> list[tuple[str, int, float]]:
    """(part, index of the step, delay) of every kill, in the order of a build."""
    shards = [
        index
        for index, step in enumerate(log)
        if step.startswith("os.rename") and "/shards/" in step
    ]
    moved = next(
        index
        for index, step in enumerate(log)
        if step.startswith("os.rename /.index.build/index #")
    )
    edges = [0, shards[0], shards[-1], moved, len(log)]
    points = []
    for number, (part, (share, longest)) in enumerate(PARTS.items()):
        steps = range(edges[number], edges[number + 1])
        count = min(len(steps), max(1, round(share * kills)))
        points += [
            (part, index, draw.uniform(0, longest)) for index in sorted(draw.sample(steps, count))
        ]
    return points


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a directory."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def shards_of(out: Path) -> dict[str, tuple[int, int]]:
    """The finished shards of `out`. A shard that is written again has another inode or time."""
    paths = out.parent.glob(f".{out.name}.build/shards/*.npy")
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--passages", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--words", type=int, default=8, help="of a passage")
    parser.add_argument(
        "--encoder", default="", help="directory [a tiny encoder with random weights]"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the kill points")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    set_quiet(True)
    settings = {"rescore": "float16", **dict(pair.split("=", 1) for pair in options.set)}
    with tempfile.TemporaryDirectory() as scratch:
        corpus, reference, out = (
            Path(scratch) / name for name in ("corpus.jsonl", "reference/index", "killed/index")
        )
        make_corpus(corpus, options.passages, options.words)
        encoder = options.encoder or make_encoder(Path(scratch) / "encoder")
        Encoder(encoder, DenseSettings()).encode(["loads the libraries"])
        build_options: dict[str, Any] = {"kind": "dense", "encoder": encoder, "settings": settings}
        for folder in (reference.parent, out.parent):
            folder.mkdir()
        log = Path(scratch) / "steps"
        code, seconds = forked(
            lambda: record(reference.parent, log), corpus, reference, build_options
        )
        assert code == 0, "the build without interruption fails"
        steps = log.read_text().splitlines()
        order = {step: index for index, step in enumerate(steps)}
        report: dict[str, Any] = {
            "machine": machine(),
            "passages": options.passages,
            "settings": settings,
        }
        report |= {"seconds": seconds, "operations": len(steps), "kills": []}
        if not options.json:
            print(f"{machine()}; {counted(options.passages, 'passage')}, {json.dumps(settings)}")
            print(f"without interruption: {seconds:.1f} s, {len(steps)} writing file operations\n")
            print(
                f"{'kill':>4} {'part':<8}{'seconds':>8}{'shards':>8}{'again':>7}  after the "
                "operation",
                flush=True,
            )
        killed, again, same = 0, 0, True
        for part, index, delay in kill_points(steps, options.kills, random.Random(options.seed)):
            before = shards_of(out)
            code, seconds = forked(
                partial(kill_at, order, index, delay, out.parent),
                corpus,
                out,
                build_options,
            )
            assert code in (0, -signal.SIGKILL), f"the build does not resume after kill {killed}"
            now = shards_of(out)
            rewritten = sum(now[name] != facts for name, facts in before.items() if name in now)
            killed, again = killed + (code != 0), again + rewritten
            point = (
                f"{steps[index]} + {1000 * delay:.0f} ms"
                if code
                else "(finished before the kill; started again)"
            )
            report["kills"].append(
                {
                    "part": part,
                    "seconds": seconds,
                    "shards": len(now),
                    "again": rewritten,
                    "at": point,
                }
            )
            if not options.json:
                print(
                    f"{killed:>4} {part:<8}{seconds:>8.1f}{len(now):>8}{rewritten:>7}  {point}",
                    flush=True,
                )
            if code == 0:
                same = same and contents(out) == contents(reference)
                shutil.rmtree(out)
        code, _ = forked(lambda: None, corpus, out, build_options)
        assert code == 0, "the build does not resume after the last kill"
        alone = [path.name for path in out.parent.iterdir()] == [out.name]
        same = same and alone and contents(out) == contents(reference)
    report |= {"killed": killed, "shards_written_again": again, "identical": same}
    if options.json:
        print(json.dumps(report, indent=2))
    else:
        print(f"\nkilled {counted(killed, 'time')}; finished shards written again: {again}")
        print(f"index byte-identical to the uninterrupted build: {'yes' if same else 'NO'}")
    sys.exit(0 if same and again == 0 else 1)


if __name__ == "__main__":
    main()
