"""Does training with vLLM learn the same? The demo's TSPO run with each engine, from the same warm
start.

    .venv-vllm/bin/python experiments/benchmarks/vllm_training.py --demo runs/demo

`--demo` is the folder of `tspo demo`, with its world, index and warmstart/model. Engines:
transformers, vLLM in the training process ("local"), and `--servers` vLLM servers ("servers"). Each
engine has its own random numbers, so two engines with one seed differ as much as two seeds do.
Compare means over seeds, and log-probabilities.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from experiments.benchmarks.common import demo_settings
from tspo_cli.console import counted
from tspo_cli.runs import read_json, read_jsonl

ENGINES = ("transformers", "local", "servers")


def tspo(*arguments: object) -> list[str]:
    """A command line of this environment's tspo."""
    return [sys.executable, "-m", "tspo_cli", *map(str, arguments)]


@contextmanager
def engine_servers(model: Path, count: int) -> Iterator[list[str]]:
    """URLs of `count` vLLM servers, which are stopped at the end of the block."""
    ports = [_free_port() for _ in range(count)]
    options = ["--context", 1024, "--dtype", "float32", "--kv-cache-gib", 0.5]
    servers = [
        subprocess.Popen(tspo("engine", model, "--port", port, *options), start_new_session=True)
        for port in ports
    ]
    try:
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        while not all(_answers(url) for url in urls):
            if any(server.poll() is not None for server in servers):
                raise SystemExit("a server ended before it was ready; its messages are above")
            time.sleep(1)
        yield urls
    finally:
        for server in servers:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait()


def train(
    engine: str, seed: int, urls: Sequence[str], options: argparse.Namespace
) -> dict[str, Any]:
    """Train one run and read its results. A run that exists is only read."""
    run = options.out / engine / f"seed{seed}"
    settings = {
        **demo_settings(options.demo, options, seed),
        "rollout.engine": "transformers" if engine == "transformers" else "vllm",
        "vllm.url": json.dumps(list(urls) if engine == "servers" else []),
    }
    if not (run / "model").is_dir():
        pairs = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        subprocess.run(
            tspo("train", "tiny/tspo", "--out", run, "--overwrite", *pairs),
            check=True,
            stdout=sys.stderr,
        )
    rows = read_jsonl(run / "metrics.jsonl")
    last_rewards = [row["reward"] for row in rows[-5:]]
    return {
        "engine": engine,
        "seed": seed,
        "em": read_json(run / "eval" / f"step_{options.steps:06}" / "world.json")["em"],
        "reward": statistics.fmean(last_rewards),
        "parity": max(row["parity"] for row in rows),
        "handover_parity": max(
            (row["handover_parity"] for row in rows if "handover_parity" in row), default=None
        ),
        "seconds_per_step": statistics.median(
            row["total"] for row in read_jsonl(run / "timings.jsonl")
        ),
    }


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=5).status_code == 200
    except httpx.TransportError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"))
    parser.add_argument("--out", type=Path, default=Path("runs/vllm_training"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--limit", type=int, default=200, help="test questions")
    parser.add_argument("--servers", type=int, default=1)
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=ENGINES)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    rows = []
    for engine in options.engines:
        count = options.servers if engine == "servers" else 0
        with engine_servers(options.demo / "warmstart" / "model", count) as urls:
            rows += [train(engine, seed, urls, options) for seed in range(options.seeds)]
    if options.json:
        print(json.dumps({"steps": options.steps, "lr": options.lr, "rows": rows}))
        return
    print(
        f"tiny/tspo, {counted(options.steps, 'step')} at lr {options.lr:g}, greedy EM on "
        f"{counted(options.limit, 'held-out question')}"
    )
    print(
        f"{'engine':<14}{'EM by seed':<26}{'mean':>7}{'sd':>7}{'reward':>8}"
        f"{'parity':>10}{'hand-over':>11}{'s/step':>8}"
    )
    for engine in options.engines:
        engine_rows = [row for row in rows if row["engine"] == engine]
        scores = [row["em"] for row in engine_rows]
        deviation = statistics.stdev(scores) if len(scores) > 1 else 0.0
        handover = max((row["handover_parity"] or 0.0) for row in engine_rows)
        print(
            f"{engine:<14}{' '.join(f'{score:.3f}' for score in scores):<26}"
            f"{statistics.fmean(scores):>7.3f}"
            f"{deviation:>7.3f}{statistics.fmean(row['reward'] for row in engine_rows):>8.3f}"
            f"{max(row['parity'] for row in engine_rows):>10.1e}{handover:>11.1e}"
            f"{statistics.median(row['seconds_per_step'] for row in engine_rows):>8.2f}"
        )


if __name__ == "__main__":
    main()
