"""Two training processes beside one: SFT, TSPO and PPO at every ZeRO stage, five steps, all metrics.

    python experiments/benchmarks/process_parity.py [--json]

Makes a small world, its index and a short warm start, then runs `tspo train` as a user does, with
`train.processes` 1 (ZeRO 0) and 2 (ZeRO 0 to 3, gloo). The table shows the greatest difference of any metric from the
run of one process; the goal is 1e-5, and a greater one ends with exit code 1. AdamW's epsilon is 1e-4 and the start a
policy in float32: a moment near zero divides rounding by itself. Rollouts are the same where log-probs are.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from made import machine

from tspo_cli.runs import read_jsonl

GOAL, STEPS = 1e-5, 5
RECIPES = {"SFT": "tiny/warmstart", "TSPO": "tiny/tspo", "PPO": "tiny/ppo"}
UNLIKE = ("rank_",)  # what says something of the processes themselves


def tspo(*arguments: str) -> None:
    command = [sys.executable, "-m", "tspo_cli", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"tspo {' '.join(arguments)}\n{done.stderr[-2000:]}")


def settings(**values: Any) -> list[str]:
    return [part for key, value in values.items() for part in ("--set", f"{key.replace('__', '.')}={value}")]


def difference(one: list[dict[str, float]], other: list[dict[str, float]]) -> tuple[float, str, int]:
    """The greatest difference of a metric, where it is, and how many were compared."""
    gaps = [
        (abs(here[name] - there[name]), f"{name}, step {here['step']}")
        for here, there in zip(one, other, strict=True)
        for name in here.keys() & there.keys()
        if not name.startswith(UNLIKE)
    ]
    worst = max(gaps)
    return *worst, len({place.partition(",")[0] for _, place in gaps})


def measure(folder: Path) -> list[dict[str, Any]]:
    """One row per recipe and stage."""
    world, index, start = folder / "world", folder / "index", folder / "start"
    tspo("data", "make-world", "--out", str(world), "--entities", "300", "--train-questions", "200")
    tspo("index", "build", str(world / "corpus.jsonl"), "--out", str(index))
    common = {"data__world": world, "retriever__index": index, "eval__data": "[]", "eval__every": 0}
    common |= {"optimizer__eps": 1e-4, "checkpoint__every": 0}
    tspo("train", "tiny/warmstart", "--out", str(start), *settings(**common, train__steps=150))
    policy = {"model__path": start / "model", "data__train": json.dumps([str(world / "train.jsonl")])}
    rows = []
    for name, recipe in RECIPES.items():
        more = common | {"train__steps": STEPS} | (policy if name != "SFT" else {})
        runs = {}
        for processes, stage in [(1, 0), *((2, stage) for stage in range(4))]:
            run = folder / f"{name}_{processes}_{stage}"
            chosen = settings(**more, train__processes=processes, deepspeed__zero_stage=stage)
            tspo("train", recipe, "--out", str(run), *chosen)
            runs[processes, stage] = read_jsonl(run / "metrics.jsonl")
        for stage in range(4):
            gap, place, count = difference(runs[1, 0], runs[2, stage])
            rows.append({"kind": name, "zero_stage": stage, "difference": gap, "where": place, "metrics": count})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder))
    if args.json:
        print(json.dumps({"machine": machine(), "rows": rows}, indent=2))
    else:
        print(f"{machine()}; 2 processes beside 1, {STEPS} steps, the greatest difference of any metric")
        for row in rows:
            where = f"{row['metrics']} metrics, greatest at {row['where']}"
            print(f"{row['kind']:<6}ZeRO {row['zero_stage']}{row['difference']:>12.1e}   {where}")
    if max(row["difference"] for row in rows) > GOAL:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
