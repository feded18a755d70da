"""How long training waits for a checkpoint: written at once, and while rollouts are made.

    python experiments/benchmarks/checkpoint_background.py            30 million parameters
    python experiments/benchmarks/checkpoint_background.py --hidden 1024 --seconds 20

Needs no GPU, and two idle cores. One process makes forward passes for about --seconds, as rollouts
do, and a checkpoint: before them (at once), or beside them (background). It prints the seconds
beyond those of the passes alone, which training waits.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median

import torch

from experiments.benchmarks.common import machine


def main() -> None:
    """Measure both ways in turn."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="Where checkpoints are written. [temporary]")
    options = parser.parse_args()

    from tspo_cli.config.load_config import load_config
    from tspo_cli.models.tiny import tiny_model
    from tspo_cli.training.core.checkpoints.checkpoint import begin_checkpoint, save_checkpoint
    from tspo_cli.training.core.distributed import init_distributed, leave
    from tspo_cli.training.core.policy_learner import PolicyLearner
    from tspo_cli.training.core.sequences import TrainSequence

    torch.set_num_threads(1)
    init_distributed()
    config = load_config([], ["kind=sft", f"model.hidden_size={options.hidden}"])
    learner = PolicyLearner(tiny_model(8192, config.model, 0), config, total_updates=2)
    sequence = TrainSequence(token_ids=[5, 6, 7], weights=[0.0, 1.0, 1.0], advantages=[0.0] * 3)
    learner.update_sft([sequence])
    core, tokens = learner.core, torch.arange(256)[None]

    @torch.no_grad()
    def passes(count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            learner.module(tokens)
        return time.perf_counter() - started

    passes(2)
    count = max(1, round(options.seconds / (passes(5) / 5)))
    waits: dict[str, list[float]] = {"at once": [], "background": []}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        out = Path(folder) / "step_000001"
        for _ in range(options.repeats):
            alone = passes(count)
            started = time.perf_counter()
            save_checkpoint(core, out, {"step": 1})
            waits["at once"].append(time.perf_counter() - started)
            started = time.perf_counter()
            unfinished = begin_checkpoint(core, out, {"step": 1})
            passes(count)
            unfinished.finish()
            waits["background"].append(time.perf_counter() - started - alone)
        size = sum(path.stat().st_size for path in out.iterdir())
    found = {way: round(median(values), 2) for way, values in waits.items()}
    print(json.dumps({"machine": machine(), "megabytes": round(size / 1e6), "waits_s": found}))
    leave(0)


if __name__ == "__main__":
    main()
