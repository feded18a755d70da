"""Training with two processes compared with one process: SFT, TSPO and PPO at every ZeRO stage.

    python experiments/benchmarks/process_parity.py [--json]

The script makes a small world, its index and a short warm start. Then it runs `tspo train` for five
steps with `train.processes` 1 (ZeRO 0) and 2 (ZeRO 0 to 3, gloo). The table shows the largest
difference of any metric from the run with one process. A difference above 1e-5 ends with exit code
1. `ratio_max` is shown separately: it is the ratio of a single token, and the rounding of that
token's log-probability in the engine's batch is about 1e-5 in float32. AdamW's epsilon is 1e-4,
because a moment near zero would amplify rounding.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from experiments.benchmarks.common import machine
from tspo_cli.runs import read_jsonl

GOAL, STEPS = 1e-5, 5
RECIPES = {"SFT": "tiny/warmstart", "TSPO": "tiny/tspo", "PPO": "tiny/ppo"}
SINGLE_TOKEN = "ratio_max"


def tspo(*arguments: str) -> None:
    command = [sys.executable, "-m", "tspo_cli", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"tspo {' '.join(arguments)}\n{done.stderr[-2000:]}")


def settings(**values: Any) -> list[str]:
    return [
        part
        for key, value in values.items()
        for part in ("--set", f"{key.replace('__', '.')}={value}")
    ]


def difference(
    reference: list[dict[str, float]], measured: list[dict[str, float]]
) -> dict[str, Any]:
    """The largest difference of a metric, where it occurs, the number of metrics compared, and the
    largest difference of SINGLE_TOKEN.
    """
    gaps: dict[str, list[tuple[float, int]]] = {}
    for first, second in zip(reference, measured, strict=True):
        # Only a run at ZeRO 3 has handover_parity: its engine has its own copy of the weights.
        for name in first.keys() & second.keys():
            gaps.setdefault(name, []).append((abs(first[name] - second[name]), int(first["step"])))
    token = max(gaps.pop(SINGLE_TOKEN))[0] if SINGLE_TOKEN in gaps else None
    (gap, step), name = max((max(values), name) for name, values in gaps.items())
    return {
        "difference": gap,
        "where": f"{name}, step {step}",
        "metrics": len(gaps),
        SINGLE_TOKEN: token,
    }


def measure(folder: Path) -> list[dict[str, Any]]:
    """One row per recipe and stage."""
    world, index, start = folder / "world", folder / "index", folder / "start"
    tspo("data", "make-world", "--out", str(world), "--entities", "300", "--train-questions", "200")
    tspo("index", "build", str(world / "corpus.jsonl"), "--out", str(index))
    common = {"data__world": world, "retriever__index": index, "eval__data": "[]", "eval__every": 0}
    common |= {"optimizer__eps": 1e-4, "checkpoint__every": 0}
    tspo("train", "tiny/warmstart", "--out", str(start), *settings(**common, train__steps=150))
    policy = {
        "model__path": start / "model",
        "data__train": json.dumps([str(world / "train.jsonl")]),
    }
    rows = []
    for name, recipe in RECIPES.items():
        shared = common | {"train__steps": STEPS} | (policy if name != "SFT" else {})
        runs = {}
        for processes, stage in [(1, 0), *((2, stage) for stage in range(4))]:
            run = folder / f"{name}_{processes}_{stage}"
            chosen = settings(**shared, train__processes=processes, deepspeed__zero_stage=stage)
            tspo("train", recipe, "--out", str(run), *chosen)
            runs[processes, stage] = read_jsonl(run / "metrics.jsonl")
        for stage in range(4):
            rows.append(
                {"kind": name, "zero_stage": stage, **difference(runs[1, 0], runs[2, stage])}
            )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(Path(folder))
    if args.json:
        print(json.dumps({"machine": machine(), "rows": rows}, indent=2))
    else:
        print(
            f"{machine()}; 2 processes compared with 1, {STEPS} steps, the largest difference of "
            "any metric"
        )
        for row in rows:
            where = f"{row['metrics']} metrics, largest at {row['where']}"
            if row[SINGLE_TOKEN] is not None:
                where += f"; {SINGLE_TOKEN} {row[SINGLE_TOKEN]:.1e}"
            print(f"{row['kind']:<6}ZeRO {row['zero_stage']}{row['difference']:>12.1e}   {where}")
    if max(row["difference"] for row in rows) > GOAL:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
