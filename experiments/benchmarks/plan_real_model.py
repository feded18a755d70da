"""The memory that `tspo plan` estimates for a real model on a CPU, beside what trainings of it use.

    python -m experiments.benchmarks.plan_real_model --model DIR [--tokens 1024 4096]
        [--arms sft lora grpo ppo] [--work DIR] [--json]

Each arm makes two steps, since the optimiser has its state after the first: SFT, SFT with adapters,
GRPO and PPO, with micro-batches of each number of tokens, which are full: there are enough
sequences. Measured is the largest resident size of the training process (VmHWM), mapped files
included. A model of 135 M parameters in float32 takes about twenty minutes on one core, and 6 GB.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from experiments.benchmarks.common import machine
from experiments.benchmarks.plan_memory import peak_gib, tspo

GOAL = 0.15
"""By this share of the truth a plan may be too low. What is above the truth is safe."""
SEQUENCE = 250
"""About the tokens of a sequence: as many of them as a micro-batch holds make an update."""
LIMITS = {
    "rollout.prompt": "short",
    "rollout.max_searches": 2,
    "rollout.max_new_tokens": 64,
    "rollout.max_observation_tokens": 150,
    "rollout.max_prompt_tokens": 256,
    "retriever.k": 2,
}
RL = {"rollout.group_size": 4, "train.drop_zero_advantage": "false"}
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "sft": ("any/sft", {}),
    "lora": ("any/sft", {"lora.rank": 16, "lora.alpha": 32}),
    "grpo": ("any/grpo", RL | {"loss.kl": 0.001}),
    "grpo-lora": ("any/grpo", RL | {"lora.rank": 16}),
    "ppo": ("any/grpo", RL | {"credit.algorithm": "ppo"}),
}


def write_demonstrations(path: Path) -> None:
    """Demonstrations of about 250 tokens each: a question, two searches and an answer."""
    text = "The river rises in the hills and flows to the sea past three towns. " * 2
    passages = [{"id": str(number), "title": "A river", "text": text} for number in range(2)]
    searches = [
        {"text": f"<search> river {number} </search>", "passages": passages} for number in range(2)
    ]
    with open(path, "w", encoding="utf-8") as handle:
        for number in range(64):
            turns = [*searches, {"text": f"<answer> town {number} </answer>"}]
            record = {"question": f"Which town lies at river {number}?", "turns": turns}
            handle.write(json.dumps(record) + "\n")


def make_data(folder: Path) -> None:
    """Demonstrations, and a world with questions and its index."""
    write_demonstrations(folder / "demos.jsonl")
    if not (folder / "index").exists():
        sizes = ["--entities", "80", "--train-questions", "64", "--test-questions", "8"]
        tspo("data", "make-world", "--out", f"{folder}/world", "--test-entities", "60", *sizes)
        tspo("index", "build", f"{folder}/world/corpus.jsonl", "--out", f"{folder}/index")


def options_of(arm: str, tokens: int, model: Path, data: Path) -> list[str]:
    """What `tspo plan` and `tspo train` get for an arm."""
    recipe, values = ARMS[arm]
    values = LIMITS | values | {"model.path": model, "train.tokens_per_micro_batch": tokens}
    values |= {"train.steps": 2, "train.export_model": "false", "eval.every": 0}
    values |= {"checkpoint.every": 0, "retriever.index": data / "index"}
    if recipe == "any/sft":
        values |= {"data.demonstrations": json.dumps([str(data / "demos.jsonl")])}
        values |= {"train.batch_size": tokens // SEQUENCE}
    else:
        values |= {"data.train": json.dumps([str(data / "world" / "train.jsonl")])}
        questions = max(1, tokens // SEQUENCE // 4)
        values |= {"rollout.questions_per_step": questions, "rollout.batch_size": 4 * questions}
    return [
        recipe,
        *(part for key, value in values.items() for part in ("--set", f"{key}={value}")),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, help="model directory")
    parser.add_argument("--tokens", type=int, nargs="+", default=[1024, 4096])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=[*ARMS])
    parser.add_argument("--work", type=Path, help="folder of the runs, kept [a temporary one]")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        make_data(work)
        for arm in options.arms:
            for tokens in options.tokens:
                settings = options_of(arm, tokens, options.model, work)
                planned = json.loads(tspo("plan", *settings, "--json"))["memory_per_process_gib"]
                measured = peak_gib(["train", *settings, "--out", f"{work}/{arm}-{tokens}"])
                share = planned["total"] / measured - 1
                rows.append({"arm": arm, "tokens": tokens, "measured": measured, **planned})
                print(
                    f"{arm:<10}{tokens:>6} tokens: measured {measured:.2f}, planned "
                    f"{planned['total']:.2f} GiB ({share:+.0%}): "
                    + ", ".join(f"{name} {value:.2f}" for name, value in planned.items() if value),
                    file=sys.stderr,
                    flush=True,
                )
    if options.json:
        print(json.dumps({"machine": machine(), "rows": rows}, indent=2))
    low = [row for row in rows if row["total"] < (1 - GOAL) * row["measured"]]
    sys.exit(1 if low else 0)


if __name__ == "__main__":
    main()
