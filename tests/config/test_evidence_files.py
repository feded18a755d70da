"""The experiments of the evidence stay what they were when `results.csv` was measured.

`evidence_hashes.json` has a hash of every experiment, over the keys that existed then. After new
runs, `python -m tests.config.test_evidence_files` in the checkout writes it again.
"""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path
from typing import Any

from tspo_cli.config.layers import compose
from tspo_cli.config.load_config import load_config
from tspo_cli.config.sources import source_layers

CHECKOUT = Path(__file__).resolve().parents[2]
RESULTS = CHECKOUT / "experiments" / "evidence" / "results.csv"
HASHES = Path(__file__).with_name("evidence_hashes.json")


def results() -> dict[str, list[dict[str, str]]]:
    """The rows of results.csv by their experiment, such as `.../hard.sweep.toml::tspo/a0`."""
    by_experiment: dict[str, list[dict[str, str]]] = {}
    with open(RESULTS, encoding="utf-8", newline="") as handle:
        for row in csv.DictReader(handle):
            by_experiment.setdefault(row["config"], []).append(row)
    return by_experiment


def experiment_hash(source: str) -> str:
    """A hash of the resolved experiment, over the keys that its files state, without the seed."""
    stated = compose(source_layers(source))
    stated.pop("seed", None)
    resolved = restricted(load_config([source]).section_dict(), stated)
    return hashlib.sha256(json.dumps(resolved, sort_keys=True).encode()).hexdigest()[:12]


def restricted(table: dict[str, Any], keys: dict[str, Any]) -> dict[str, Any]:
    return {
        key: restricted(table[key], value) if isinstance(value, dict) else table[key]
        for key, value in keys.items()
    }


def test_every_experiment_is_the_one_that_was_run() -> None:
    hashes = {config: experiment_hash(f"{CHECKOUT}/{config}") for config in results()}
    assert hashes == json.loads(HASHES.read_text(encoding="utf-8"))


def test_the_rows_fit_their_experiment() -> None:
    by_experiment = results()
    assert {"experiment", "config", "algorithm", "seed", "step", "em"} <= set(
        next(iter(by_experiment.values()))[0]
    )
    for name, rows in by_experiment.items():
        config = load_config([f"{CHECKOUT}/{name}"])
        assert max(int(row["step"]) for row in rows) == config.train.steps, name
        assert {row["algorithm"] for row in rows} == {config.credit.algorithm}
        assert {float(row["lr"]) for row in rows} == {config.optimizer.lr}
        seeds = {int(row["seed"]) for row in rows}
        if len(seeds) == 1:
            assert {config.seed} == seeds, name


if __name__ == "__main__":
    HASHES.write_text(
        json.dumps({config: experiment_hash(config) for config in results()}, indent=1) + "\n",
        encoding="utf-8",
    )
