"""Does a real model in bfloat16 train with vLLM without being stopped for rounding, and does a run
whose engine has other weights stop?

    .venv-vllm/bin/python -m experiments.reliability.bf16_runs --model DIR --index DIR
        --questions FILE [--seeds 5] [--steps 10] [--only KIND]... [--work DIR] [--json]

Needs vLLM (`make vllm`); on a CPU a run of 135 M parameters takes some minutes. `tspo data
make-corpus` and `tspo index build` make corpus, questions and index from benchmark files. Kinds:

- `train`: GRPO, `--steps` steps with each seed. Expected: all finish.
- `other`: from step 1 on the engine keeps the weights of the start, whatever it is given. Expected:
  every run ends at the first hand-over after them.
- `gspo`: one update a step, log-probs of the learner. Expected: clip_fraction at most 0.01.

Exit code 1 where one of them is otherwise. It prints parity, mismatch and clip fractions too.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.benchmarks.common import machine
from tspo_cli.console import counted
from tspo_cli.runs import METRICS_NAME, read_jsonl

if TYPE_CHECKING:
    import torch

KINDS = ("train", "other", "gspo")
MOST_CLIPPED = 0.01
SHOWN = ("parity", "handover_parity", "mismatch_kl", "clip_fraction", "mixed_share")
SETTINGS = {
    "model.dtype": "bfloat16",
    "rollout.engine": "vllm",
    "rollout.max_searches": 1,
    "rollout.max_new_tokens": 32,
    "rollout.max_observation_tokens": 160,
    "rollout.questions_per_step": 2,
    "rollout.group_size": 4,
    "retriever.k": 1,
    "optimizer.warmup": 0,
    "loss.entropy": 1e-3,  # weights change in every step, also where no rollout is rewarded
    "checkpoint.every": 0,
    "train.export_model": "false",
    "eval.at_start": "false",
    "eval.every": 0,
    "eval.data": "[]",
}
GSPO = {"credit.algorithm": "gspo", "loss.old_logprobs": "learner"}


def keep_first_weights() -> None:
    """Make every vLLM engine of this process ignore all weights but those that it gets first."""
    from tspo_cli.rollout.engines.vllm_engine.vllm_local import VllmEngine

    load = VllmEngine.load_weights
    first: dict[str, torch.Tensor] = {}

    def load_first(
        engine: VllmEngine, weights: Mapping[str, torch.Tensor] | None, version: int
    ) -> None:
        if not first and weights is not None:
            first.update({name: value.clone() for name, value in weights.items()})
        load(engine, first, version)

    VllmEngine.load_weights = load_first  # type: ignore[assignment, method-assign]


def child(arguments: list[str]) -> None:
    """tspo in this process, with an engine that keeps its first weights."""
    from tspo_cli.commands.app import main as tspo

    keep_first_weights()
    sys.argv = ["tspo", *arguments]
    tspo()


def run(kind: str, seed: int, options: argparse.Namespace, out: Path) -> dict[str, Any]:
    """One training; its metrics, exit code and last line."""
    settings = {
        **SETTINGS,
        **(GSPO if kind == "gspo" else {}),
        "model.path": options.model,
        "retriever.index": options.index,
        "data.train": json.dumps([options.questions]),
        "train.steps": options.steps,
        "seed": seed,
    }
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    words += [word for setting in options.set for word in ("--set", setting)]
    program = ["-m", "experiments.reliability.bf16_runs", "--child"]
    start = [sys.executable, *(program if kind == "other" else ["-m", "tspo_cli"])]
    shutil.rmtree(out, ignore_errors=True)
    began = time.monotonic()
    done = subprocess.run(
        [*start, "train", "any/grpo", "--out", str(out), *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    rows = read_jsonl(out / METRICS_NAME)
    lines = done.stderr.strip().splitlines()
    return {
        "kind": kind,
        "seed": seed,
        "code": done.returncode,
        "steps": len(rows),
        "seconds": round(time.monotonic() - began),
        "largest": {
            name: max(found)
            for name in SHOWN
            if (found := [row[name] for row in rows if row.get(name) is not None])
        },
        "last_line": lines[-1] if lines else "",
    }


def folder_for(work: str | None) -> Any:
    """A context with the folder of the runs: `work`, or one that is deleted at the end."""
    if not work:
        return tempfile.TemporaryDirectory()
    Path(work).mkdir(parents=True, exist_ok=True)
    return nullcontext(work)


def is_as_expected(result: dict[str, Any], steps: int) -> bool:
    """What the head of this file says of each kind."""
    if result["kind"] == "other":
        stopped = "hand-over of step 1" in result["last_line"]
        return result["code"] == 1 and stopped
    finished = result["code"] == 0 and result["steps"] == steps
    clipped = result["largest"].get("clip_fraction", 1.0)
    return finished and (result["kind"] != "gspo" or clipped <= MOST_CLIPPED)


def options_of_trainings(documentation: str) -> argparse.ArgumentParser:
    """A parser with what every command has that trains a real model with vLLM."""
    parser = argparse.ArgumentParser(description=documentation.splitlines()[0])
    parser.add_argument("--model", required=True, help="model directory, trained in bfloat16")
    parser.add_argument("--index", required=True, help="index of the passages")
    parser.add_argument("--questions", required=True, help="question file")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--work", help="folder for the runs, which stay there")
    parser.add_argument("--json", action="store_true")
    return parser


def with_absolute_paths(options: argparse.Namespace) -> argparse.Namespace:
    """The options, with paths that hold in every working directory."""
    for name in ("model", "index", "questions"):
        setattr(options, name, str(Path(getattr(options, name)).absolute()))
    return options


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2:])
        return
    parser = options_of_trainings(__doc__ or "")
    parser.add_argument("--seeds", type=int, default=5, help="seeds 0 to this one, less one")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    options = with_absolute_paths(parser.parse_args())
    results = []
    with folder_for(options.work) as folder:
        for kind in options.only:
            for seed in range(options.seeds):
                result = run(kind, seed, options, Path(folder) / f"{kind}_{seed}")
                result["as_expected"] = is_as_expected(result, options.steps)
                results.append(result)
                values = ", ".join(
                    f"{name} {value:.3g}" for name, value in result["largest"].items()
                )
                verdict = "as expected" if result["as_expected"] else "NOT as expected"
                print(
                    f"{kind} seed {seed}: {verdict}; "
                    f"{counted(result['steps'], 'step')} in {result['seconds']} s, exit "
                    f"{result['code']}; {values}; {result['last_line']}",
                    file=sys.stderr if options.json else sys.stdout,
                    flush=True,
                )
    print(json.dumps({"machine": machine(), "runs": results}) if options.json else machine())
    sys.exit(0 if all(result["as_expected"] for result in results) else 1)


if __name__ == "__main__":
    main()
