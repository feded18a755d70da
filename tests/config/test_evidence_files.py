"""The experiments of the evidence stay what they were when both `results.csv` were measured.

The first set (`native/`) was made before train.portable existed, which its hashes leave out.
`evidence_hashes.json` has a hash of every experiment, over the keys that existed then. After new
runs, `python -m tests.config.test_evidence_files` in the checkout writes it again.
"""

from __future__ import annotations

import csv
import hashlib
import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from experiments.evidence import prepare, run
from tspo_cli.config.layers import compose
from tspo_cli.config.load_config import load_config
from tspo_cli.config.sources import source_layers
from tspo_cli.config.sweeps.sweep_file import read_sweep_file
from tspo_cli.credit.algorithms import ALGORITHMS

CHECKOUT = Path(__file__).resolve().parents[2]
EVIDENCE = CHECKOUT / "experiments" / "evidence"
FIRST_SET, SECOND_SET = EVIDENCE / "native" / "results.csv", EVIDENCE / "results.csv"
HASHES = Path(__file__).with_name("evidence_hashes.json")


def results(file: Path) -> dict[str, list[dict[str, str]]]:
    """The rows of a results.csv by their experiment, such as `.../hard.sweep.toml::tspo/a0`."""
    by_experiment: dict[str, list[dict[str, str]]] = {}
    with open(file, encoding="utf-8", newline="") as handle:
        for row in csv.DictReader(handle):
            by_experiment.setdefault(row["config"], []).append(row)
    return by_experiment


def experiment_hash(source: str) -> str:
    """A hash of the resolved experiment, over the keys that its files state, without the seed."""
    stated = compose(source_layers(source))
    stated.pop("seed", None)
    stated["train"].pop("portable", None)
    resolved = restricted(load_config([source]).section_dict(), stated)
    return hashlib.sha256(json.dumps(resolved, sort_keys=True).encode()).hexdigest()[:12]


def restricted(table: dict[str, Any], keys: dict[str, Any]) -> dict[str, Any]:
    return {
        key: restricted(table[key], value) if isinstance(value, dict) else table[key]
        for key, value in keys.items()
    }


@cache
def planned_seeds(file: str) -> dict[str, tuple[int, ...]]:
    """The seeds of every variant of a sweep."""
    return {variant.name: variant.seeds for variant in read_sweep_file(CHECKOUT / file).variants}


def experiments() -> list[str]:
    return list(dict.fromkeys([*results(FIRST_SET), *results(SECOND_SET)]))


def test_every_experiment_is_the_one_that_was_run() -> None:
    hashes = {config: experiment_hash(f"{CHECKOUT}/{config}") for config in experiments()}
    assert hashes == json.loads(HASHES.read_text(encoding="utf-8"))


@pytest.mark.parametrize("file", [FIRST_SET, SECOND_SET], ids=["first", "second"])
def test_the_rows_fit_their_experiment(file: Path) -> None:
    by_experiment = results(file)
    assert {"experiment", "config", "algorithm", "seed", "step", "em"} <= set(
        next(iter(by_experiment.values()))[0]
    )
    for name, rows in by_experiment.items():
        config = load_config([f"{CHECKOUT}/{name}"])
        assert max(int(row["step"]) for row in rows) == config.train.steps, name
        assert {row["algorithm"] for row in rows} == {config.credit.algorithm}
        assert {float(row["lr"]) for row in rows} == {config.optimizer.lr}
        sweep, _, variant = name.partition("::")
        assert {int(row["seed"]) for row in rows} <= {*planned_seeds(sweep)[variant]}, name


@pytest.mark.parametrize("name", ["hard", "two_hop"])
def test_arms_keep_the_defaults_of_their_algorithm(name: str) -> None:
    """base.toml states keys for which some algorithms have defaults of their own."""
    for variant in planned_seeds(f"experiments/evidence/{name}.sweep.toml"):
        config = load_config([f"{EVIDENCE}/{name}.sweep.toml::{variant}"])
        for key, value in ALGORITHMS[config.credit.algorithm].defaults.items():
            section, option = key.split(".")
            assert getattr(getattr(config, section), option) == value, (variant, key)


def test_rows_of_the_second_set_repeat_elsewhere() -> None:
    for name, rows in results(SECOND_SET).items():
        assert load_config([f"{CHECKOUT}/{name}"]).train.portable, name
        assert {row["arithmetic"] for row in rows} == {"portable"}, name


def test_as_many_runs_are_planned_as_the_plan_says() -> None:
    planned = {
        (name, arm): sum(
            len(seeds)
            for variant, seeds in planned_seeds(f"experiments/evidence/{name}.sweep.toml").items()
            if variant.partition("/")[0] == arm
        )
        for name in ("hard", "two_hop", "lr_wide")
        for arm in ("grpo", "tspo", "mt_grpo", "carl", "sipo")
    }
    assert {key: count for key, count in planned.items() if count} == {
        ("hard", "grpo"): 40, ("hard", "tspo"): 40, ("hard", "mt_grpo"): 10, ("hard", "carl"): 10,
        ("hard", "sipo"): 10,
        ("two_hop", "grpo"): 20, ("two_hop", "tspo"): 20, ("two_hop", "mt_grpo"): 10,
        ("lr_wide", "grpo"): 24, ("lr_wide", "tspo"): 24,
    }  # fmt: skip
    assert {key: run.PLANNED_PAIRS[key] for key in ("hard", "two_hop")} == {
        "hard": planned["hard", "tspo"], "two_hop": planned["two_hop", "tspo"],
    }  # fmt: skip


def test_starts_in_the_checkout_are_as_they_were_made() -> None:
    folder = EVIDENCE / "starts"
    lines = [line.split() for line in (folder / "SHA256SUMS").read_text("utf-8").splitlines()]
    assert {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for _, name in lines
    } == {name: digest for digest, name in lines}
    assert {Path(name).parent.name for _, name in lines} <= run.STARTS.keys()
    assert {path.parent.name for path in folder.glob("*/model.safetensors")} == {
        Path(name).parent.name for _, name in lines
    }


def test_starts_that_the_checkout_does_not_have_are_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "experiments"
    for name in ("evidence", "tiny"):
        shutil.copytree(CHECKOUT / "experiments" / name, folder / name)
    shutil.rmtree(folder / "evidence" / "starts" / "b0", ignore_errors=True)
    for file in (folder / "evidence").glob("starts*.sweep.toml"):
        text = file.read_text("utf-8").replace("train.steps = 22", "")
        file.write_text(
            text.replace("[settings]", "[settings]\ntrain.steps = 1\neval.limit = 1"), "utf-8"
        )
    monkeypatch.chdir(tmp_path)
    prepare.main()
    run.make_starts(jobs=1)
    for name, place in run.STARTS.items():
        model = run.ROOT / "starts" / place / "model" / "model.safetensors"
        given = folder / "evidence" / "starts" / name / "model.safetensors"
        assert model.exists(), place
        assert not given.exists() or model.read_bytes() == given.read_bytes()
    assert not (run.ROOT / "starts_easy").exists(), "a row from a hard start needs no training"
    run.make_easy_starts(jobs=1)
    assert len([*run.ROOT.glob("starts_easy/easy/*/*/model")]) == 2


if __name__ == "__main__":
    HASHES.write_text(
        json.dumps({config: experiment_hash(config) for config in experiments()}, indent=1) + "\n",
        encoding="utf-8",
    )
