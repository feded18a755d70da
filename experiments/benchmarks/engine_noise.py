"""Does importance correction make up for an engine whose log-probabilities are off? The demo's GRPO
with noise on them, corrected and not, beside the same without noise.

    python experiments/benchmarks/engine_noise.py --demo runs/demo [--seeds 3] [--noise 0.05]

`--demo` is the folder of `tspo demo`, with its world, index and warmstart/model. The noise is
normal with a standard deviation of `--noise` nats, drawn for each sampled token. Arms: `exact` (no
noise), `corrected` (the ratio is of the learner's log-probs, importance weights cut at 2), `bypass`
(the noisy log-probs are the old ones, no weights). The tokens are the policy's in all arms.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.benchmarks.common import demo_settings
from tspo_cli.console import counted
from tspo_cli.rollout.engines.engine_protocol import Completion
from tspo_cli.runs import read_json, read_jsonl

ARMS = {
    "exact": {},
    "corrected": {"loss.old_logprobs": "learner", "loss.mismatch": "truncate"},
    "bypass": {"loss.old_logprobs": "engine", "loss.mismatch": "none"},
}


def add_noise(deviation: float, seed: int) -> None:
    """Make the training's engine in this process report log-probabilities that are off. The check
    of the model at the start has an engine of its own.
    """
    from tspo_cli.rollout.engines.hf.hf_engine import TransformersEngine
    from tspo_cli.training import run as training

    numbers = random.Random(seed)

    class NoisyEngine(TransformersEngine):
        def step(self) -> list[Completion]:
            return [
                replace(
                    done,
                    logprobs=tuple(value + numbers.gauss(0, deviation) for value in done.logprobs),
                )
                for done in super().step()
            ]

    training.TransformersEngine = NoisyEngine  # type: ignore[misc]


def child(deviation: str, seed: str, arguments: list[str]) -> None:
    """tspo in this process, with an engine that has noise."""
    from tspo_cli.commands.app import main as tspo

    add_noise(float(deviation), int(seed))
    sys.argv = ["tspo", *arguments]
    tspo()


def train(arm: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Train one run and read its results. A run that exists is only read."""
    run = options.out / arm / f"seed{seed}"
    settings = {
        **demo_settings(options.demo, options, seed),
        "train.parity_limit": 1.0,
        **ARMS[arm],
    }
    if not (run / "model").is_dir():
        pairs = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        noisy = [__file__, "--child", str(options.noise), str(seed)]
        program = ["-m", "tspo_cli"] if arm == "exact" else noisy
        subprocess.run(
            [sys.executable, *program, "train", "tiny/grpo", "--out", run, "--overwrite", *pairs],
            check=True,
            stdout=sys.stderr,
        )
    rows = read_jsonl(run / "metrics.jsonl")
    return {
        "arm": arm,
        "seed": seed,
        "em": read_json(run / "eval" / f"step_{options.steps:06}" / "world.json")["em"],
        "reward": statistics.fmean(row["reward"] for row in rows[-5:]),
        "gap": statistics.fmean(row["parity"] for row in rows),
        "clip_fraction": statistics.fmean(row.get("clip_fraction", 0.0) for row in rows),
    }


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3], sys.argv[4:])
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--demo", type=Path, default=Path("runs/demo"))
    parser.add_argument("--out", type=Path, default=Path("runs/engine_noise"))
    parser.add_argument("--noise", type=float, default=0.05, help="nats")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--limit", type=int, default=200, help="test questions")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()

    rows = [train(arm, seed, options) for arm in options.arms for seed in range(options.seeds)]
    if options.json:
        print(json.dumps({"steps": options.steps, "noise": options.noise, "rows": rows}))
        return
    print(
        f"tiny/grpo, {counted(options.steps, 'step')} at lr {options.lr:g}, "
        f"noise of {options.noise:g} nats"
    )
    print(f"{'arm':<12}{'EM by seed':<24}{'mean':>7}{'reward':>9}{'gap':>8}{'clipped':>9}")
    for arm in options.arms:
        found = [row for row in rows if row["arm"] == arm]
        mean = {name: statistics.fmean(row[name] for row in found) for name in list(found[0])[2:]}
        scores = " ".join(f"{row['em']:.3f}" for row in found)
        print(
            f"{arm:<12}{scores:<24}{mean['em']:>7.3f}{mean['reward']:>9.3f}{mean['gap']:>8.4f}"
            f"{mean['clip_fraction']:>9.4f}"
        )


if __name__ == "__main__":
    main()
