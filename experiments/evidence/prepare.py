"""Make two worlds, their indexes, and the two halves of their held-out questions.

One half of a world's held-out questions chooses the learning rates (`tune.jsonl`). The other half
is reported (`heldout.jsonl`). `tune_two_hop.jsonl` and `two_hop.jsonl` hold the two-hop questions
of each half.

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
    """Make every world and index that does not exist yet, and the halves."""
    for name, seed in WORLDS.items():
        world, index = ROOT / "worlds" / name, ROOT / "indexes" / name
        if not (world / "world.json").exists():
            _tspo("data", "make-world", "--out", str(world), "--seed", str(seed), *HARD)
        if not (index / "manifest.json").exists():
            _tspo("index", "build", str(world / "corpus.jsonl"), "--out", str(index))
        _split(world)


def _split(world: Path) -> None:
    """Put the questions of each type into the two halves by turns."""
    lines = (world / "test.jsonl").read_text(encoding="utf-8").splitlines()
    by_type: dict[str, list[str]] = {}
    for line in lines:
        by_type.setdefault(json.loads(line)["type"], []).append(line)
    for name, start in (("heldout", 0), ("tune", 1)):
        half = {kind: questions[start::2] for kind, questions in by_type.items()}
        _write(world / f"{name}.jsonl", [line for questions in half.values() for line in questions])
        _write(
            world / f"{'two_hop' if name == 'heldout' else 'tune_two_hop'}.jsonl", half["bridge"]
        )


def _write(path: Path, lines: list[str]) -> None:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def _tspo(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "tspo_cli", *arguments], check=True)


if __name__ == "__main__":
    main()
