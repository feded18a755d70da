"""Mutations of a run directory."""

from __future__ import annotations

import random
from pathlib import Path

from experiments.reliability.damage import Mutation, byte_damage, json_damage


def run_mutations(run: Path, count: int, draw: random.Random) -> list[Mutation]:
    """Every kind of record in turn: three of four get a wrong value, the others wrong bytes."""
    patterns = (
        "config.resolved.json", "status.json", "metrics.jsonl", "timings.jsonl", "env.json",
        "eval/*/*.json", "eval/*/*.items.jsonl.gz", "rollouts/*.jsonl.gz", "command.txt",
        "inputs.json", "checkpoints/*/state.json", "config.toml", "digests.jsonl",
        "rollouts/digests.jsonl", "eval/*/digests.jsonl",
    )  # fmt: skip
    made: list[Mutation] = []
    while len(made) < count:
        for pattern in patterns:
            paths = sorted(run.glob(pattern))
            if not paths:  # a run may lack checkpoints or records of inputs
                continue
            path = draw.choice(paths)
            file = str(path.relative_to(run))
            by_bytes = path.suffix in (".txt", ".toml") or draw.random() < 0.25
            made.append(byte_damage(file, draw) if by_bytes else json_damage(file, draw))
    return made[:count]
