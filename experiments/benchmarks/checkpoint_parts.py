"""Time and peak memory of a checkpoint of two processes: each writes its part, against the first
process gathering and writing all.

    python experiments/benchmarks/checkpoint_parts.py                 30 million parameters
    python experiments/benchmarks/checkpoint_parts.py --hidden 1024 --stage 0

Needs no GPU: the processes meet over gloo. It prints seconds and the growth of the largest resident
size of both processes together and of the larger one, and the ratios of parts to the whole.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore

from experiments.benchmarks.common import machine

PROCESSES = 2


def work(options: argparse.Namespace) -> None:
    """One process: an update, so that there are moments, then one checkpoint."""
    from tspo_cli.config.load_config import load_config
    from tspo_cli.models.tiny import tiny_model
    from tspo_cli.training.core.checkpoints.checkpoint import save_checkpoint
    from tspo_cli.training.core.checkpoints.checkpoint_files import write_tensors
    from tspo_cli.training.core.distributed import (
        barrier,
        gather_json,
        init_distributed,
        leave,
        rank,
    )
    from tspo_cli.training.core.optimizer_state import full_state
    from tspo_cli.training.core.policy_learner import PolicyLearner
    from tspo_cli.training.core.sequences import TrainSequence

    init_distributed()
    settings = [f"deepspeed.zero_stage={options.stage}", f"model.hidden_size={options.hidden}"]
    config = load_config([], ["kind=sft", *settings])
    learner = PolicyLearner(tiny_model(8192, config.model, 0), config, total_updates=2)
    sequence = TrainSequence(token_ids=[5, 6, 7], weights=[0.0, 1.0, 1.0], advantages=[0.0] * 3)
    learner.update_sft([sequence])
    core, before, out = learner.core, _peak(), options.folder / "checkpoint"
    barrier()
    started = time.perf_counter()
    if options.way == "parts":
        save_checkpoint(core, out, {"step": 1})
    else:
        state = full_state(core.engine, core.module, keep=rank() == 0, has_moments=True)
        if rank() == 0:
            out.mkdir()
            write_tensors(out / "state.safetensors", state)
    barrier()
    seconds = time.perf_counter() - started
    size = sum(value.numel() for value in learner.module.parameters())
    if options.stage == 3:
        size = sum(value.ds_numel for value in learner.module.parameters())
    growth = gather_json(_peak() - before)
    if rank() == 0:
        megabytes = [round(value, 1) for value in growth]
        print(json.dumps({"parameters": size, "seconds": seconds, "growth_mb": megabytes}))
    leave(0)


def _peak() -> float:
    """MB of the largest resident size so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def measure(way: str, options: argparse.Namespace) -> dict[str, Any]:
    """What the processes of a fresh run say."""
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        common = os.environ | {
            "WORLD_SIZE": str(PROCESSES),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        }
        words = [sys.executable, __file__, "--way", way, "--folder", folder]
        words += ["--hidden", str(options.hidden), "--stage", str(options.stage)]
        workers = [
            subprocess.Popen(
                words,
                env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(PROCESSES)
        ]
        outputs = [worker.communicate()[0] for worker in workers]
        if any(worker.returncode for worker in workers):
            raise SystemExit("a process failed")
    return {"way": way, **json.loads(outputs[0].splitlines()[-1])}


def main() -> None:
    """Measure both ways in turn, and print the ratios of medians."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--stage", type=int, choices=range(4), default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="Where checkpoints are written. [temporary]")
    parser.add_argument("--way", choices=["parts", "whole"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        work(options)
    print(json.dumps({"machine": machine(), "stage": options.stage, "processes": PROCESSES}))
    rows = [measure(way, options) for _ in range(options.repeats) for way in ("whole", "parts")]
    for row in rows:
        print(json.dumps(row))
    found = {
        way: {
            "seconds": _middle([row["seconds"] for row in rows if row["way"] == way]),
            "larger_mb": _middle([max(row["growth_mb"]) for row in rows if row["way"] == way]),
            "both_mb": _middle([sum(row["growth_mb"]) for row in rows if row["way"] == way]),
        }
        for way in ("whole", "parts")
    }
    ratios = {key: round(found["parts"][key] / found["whole"][key], 3) for key in found["parts"]}
    print(json.dumps({"medians": found, "parts_to_whole": ratios}))


def _middle(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


if __name__ == "__main__":
    main()
