"""The memory that `tspo plan` estimates, compared with what training processes use on a CPU.

    python experiments/benchmarks/plan_memory.py --demo runs/demo [--json]

`--demo` is the folder of `tspo demo`, with its world, index and warm start. The experiments are
those of the demo with other batch sizes and model sizes. RL starts from the warm start, so that the
rollouts are those of a policy that learns. Measured is the largest resident size of the training
process (VmHWM), mapped files included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ARMS: dict[str, list[str]] = {
    "warm start": ["tiny/warmstart", "train.steps=30"],
    "warm start, 256 x 4": [
        "tiny/warmstart",
        "train.steps=10",
        "model.hidden_size=256",
        "model.layers=4",
    ],
    "warm start, 512 x 6": [
        "tiny/warmstart",
        "train.steps=5",
        "model.hidden_size=512",
        "model.layers=6",
    ],
    "TSPO": ["tiny/tspo", "train.steps=100"],
    "GRPO, 2048 tokens": ["tiny/grpo", "train.steps=60", "train.tokens_per_micro_batch=2048"],
    "PPO": ["tiny/ppo", "train.steps=60"],
    "TSPO, 64 questions, 32768 tokens": [
        *(
            "tiny/tspo",
            "train.steps=15",
            "rollout.questions_per_step=64",
            "train.tokens_per_micro_batch=32768",
        ),
        *("rollout.batch_size=320", "train.drop_zero_advantage=false"),
    ],
}


def tspo(*arguments: str) -> str:
    command = [sys.executable, "-m", "tspo_cli", "--quiet", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def peak_gib(arguments: list[str]) -> float:
    """The largest resident size of a tspo command."""
    code = (
        "import sys, re; from tspo_cli.commands.app import main\n"
        "try: main()\n"
        "finally: print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1], "
        "file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "--quiet", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return int(done.stderr.split()[-1]) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"))
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    data = [
        f"data.world={args.demo}/world",
        f"retriever.index={args.demo}/index",
        "eval.data=[]",
        "eval.every=0",
    ]
    policy = [
        f"model.path={args.demo}/warmstart/model",
        f'data.train=["{args.demo}/world/train.jsonl"]',
    ]
    with tempfile.TemporaryDirectory() as folder:
        for arm, (recipe, *settings) in ARMS.items():
            chosen = [*data, *settings, *([] if recipe == "tiny/warmstart" else policy)]
            options = [recipe, *(part for setting in chosen for part in ("--set", setting))]
            planned = json.loads(tspo("plan", *options, "--json"))["memory_per_process_gib"]
            measured = peak_gib(["train", *options, "--out", f"{folder}/{len(rows)}"])
            rows.append({"arm": arm, "planned": planned, "measured": measured})
            if not args.json:
                parts = ", ".join(
                    f"{part} {value:.3f}"
                    for part, value in planned.items()
                    if part != "total" and value
                )
                print(
                    f"{arm:<34}measured {measured:.3f} planned {planned['total']:.3f} GiB "
                    f"({planned['total'] / measured:.2f}): {parts}",
                    flush=True,
                )
    if args.json:
        print(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
