"""Make what the runs start from: two worlds, their indexes, and the held-out questions in two
halves.

Half of a world's held-out questions chooses the learning rates (`tune.jsonl`), the other half is
reported (`heldout.jsonl`); the same two halves without one-hop questions are `tune_two_hop.jsonl`
and `two_hop.jsonl`.

    python experiments/evidence/prepare.py        # run.py calls it
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path("runs/evidence")
WORLDS = {"a": 0, "b": 1}
HARD = ("--facts-per-passage", "1", "--comparison-share", "0")


def main() -> None:
    """Make every world that is not there yet; what is there stays."""
    for name, seed in WORLDS.items():
        world, index = ROOT / "worlds" / name, ROOT / "indexes" / name
        if not (world / "world.json").exists():
            _tspo("data", "make-world", "--out", str(world), "--seed", str(seed), *HARD)
        if not (index / "manifest.json").exists():
            _tspo("index", "build", str(world / "corpus.jsonl"), "--out", str(index))
        _split(world)


def _split(world: Path) -> None:
    """Every other question of each type goes to the other half."""
    lines = (world / "test.jsonl").read_text(encoding="utf-8").splitlines()
    by_type: dict[str, list[str]] = {}
    for line in lines:
        by_type.setdefault(json.loads(line)["type"], []).append(line)
    for name, start in (("heldout", 0), ("tune", 1)):
        half = {kind: some[start::2] for kind, some in by_type.items()}
        _write(world / f"{name}.jsonl", [line for some in half.values() for line in some])
        _write(
            world / f"{'two_hop' if name == 'heldout' else 'tune_two_hop'}.jsonl", half["bridge"]
        )


def _write(path: Path, lines: list[str]) -> None:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def _tspo(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "tspo_cli", *arguments], check=True)


if __name__ == "__main__":
    main()
