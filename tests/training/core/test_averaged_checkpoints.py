"""`train.average_checkpoints`: a run ends with the mean of the weights of its last checkpoints."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import Finished, Playground, run_tspo
from tspo_cli.runs import read_json, read_jsonl, read_jsonl_gz
from tspo_cli.training.core.checkpoints.checkpoint import policy_state

Tspo = Callable[..., Finished]
OPTIONS: dict[str, Any] = {
    "train__average_checkpoints": 3,
    "checkpoint__every": 2,
    "checkpoint__keep": 1,
    "train__steps": 5,
    "optimizer__lr": 0.01,
    "loss__entropy": 0.01,  # a gradient, also where no rollout is rewarded
    "eval__every": 0,
}


def command(playground: Playground, run: Path, *words: str, **options: Any) -> list[str]:
    settings = playground.settings(**(OPTIONS | options))
    return ["train", "tiny/grpo", "--out", str(run), *words, *settings]


def kept(run: Path) -> list[int]:
    return sorted(int(folder.name[5:]) for folder in (run / "checkpoints").glob("step_*"))


def mean_of(run: Path, steps: list[int]) -> dict[str, torch.Tensor]:
    states = [policy_state(run / "checkpoints" / f"step_{step:06}") for step in steps]
    names = [name for name in states[0] if name.startswith("param.")]
    return {
        name.removeprefix("param.model."): torch.stack([state[name] for state in states]).mean(0)
        for name in names
    }


def assert_ends_with(run: Path, wanted: dict[str, torch.Tensor]) -> None:
    exported = load_file(run / "model" / "model.safetensors")
    found = {name.removeprefix("model."): value for name, value in exported.items()}
    names = {name.removeprefix("model."): name for name in wanted}
    assert found.keys() <= names.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, wanted[names[name]], rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def straight(playground: Playground, tspo: Tspo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("straight") / "run"
    done = tspo(*command(playground, run))
    assert "the policy is now the mean of the checkpoints of steps 2, 4, 5" in done.err
    return run


def test_the_mean_is_exported_and_evaluated(
    playground: Playground, tspo: Tspo, straight: Path, tmp_path: Path
) -> None:
    assert kept(straight) == [2, 4, 5], "checkpoint.keep is 1, but the mean needs them"
    wanted = mean_of(straight, [2, 4, 5])
    last = mean_of(straight, [5])
    assert any(not torch.equal(wanted[name], last[name]) for name in last)
    assert_ends_with(straight, wanted)
    out = tmp_path / "eval"
    data, index = playground.world / "test.jsonl", playground.index
    limits = ("--limit", 6, "--set", "retriever.k=2")
    tspo("eval", straight, "--data", data, "--index", index, *limits, "--out", out)
    found, wanted_texts = (
        [turn["text"] for item in read_jsonl_gz(path) for turn in item["trajectory"]["turns"]]
        for folder in (straight / "eval" / "step_000005", out)
        for path in folder.glob("*.items.jsonl.gz")
    )
    assert found == wanted_texts


def test_a_finished_run_stays_as_it_is(playground: Playground, tspo: Tspo, straight: Path) -> None:
    files = [*straight.glob("model/*"), *straight.glob("eval/*/*"), straight / "metrics.jsonl"]
    before = {path: path.read_bytes() for path in files}
    state = read_json(straight / "checkpoints/step_000005/state.json")
    assert "evaluation" not in state["extra"]
    tspo(*command(playground, straight, "--resume"))
    assert {path: path.read_bytes() for path in files} == before
    assert read_json(straight / "status.json")["state"] == "finished"


def test_a_run_that_goes_on_has_its_own_weights(
    playground: Playground, tspo: Tspo, tmp_path: Path
) -> None:
    """Not the mean: the checkpoint of the last step has what the optimiser made."""
    halves, whole = tmp_path / "halves", tmp_path / "whole"
    tspo(*command(playground, halves, train__steps=3))
    tspo(*command(playground, halves, "--resume", train__steps=6))
    tspo(*command(playground, whole, train__steps=6))
    assert read_jsonl(halves / "metrics.jsonl") == read_jsonl(whole / "metrics.jsonl")
    ends = [load_file(run / "model" / "model.safetensors") for run in (halves, whole)]
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())
    assert {2, 4, 6} <= {*kept(halves)}


def test_a_damaged_checkpoint_is_named_and_left_out(
    playground: Playground, tspo: Tspo, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    tspo(*command(playground, run, train__steps=4))
    damaged = run / "checkpoints/step_000002/state.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    done = tspo(*command(playground, run, "--resume", train__steps=5))
    assert f"{damaged}: damaged" in done.err
    assert "the mean of the checkpoints of steps 4, 5" in done.err
    assert_ends_with(run, mean_of(run, [4, 5]))
    assert any(
        "leaves this checkpoint out" in said for said in read_json(run / "status.json")["warnings"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_processes_average_together(
    playground: Playground, tspo: Tspo, tmp_path: Path, stage: int
) -> None:
    run = tmp_path / "run"
    tspo(*command(playground, run, train__processes=2, deepspeed__zero_stage=stage, train__steps=4))
    assert_ends_with(run, mean_of(run, [2, 4]))


def test_a_mean_needs_checkpoints(playground: Playground, tmp_path: Path) -> None:
    done = run_tspo(*command(playground, tmp_path / "run", checkpoint__every=0))
    assert done.code == 3
    assert "train.average_checkpoints: needs checkpoints; set checkpoint.every" in done.err
    settings = playground.settings(**OPTIONS)
    planned = [
        json.loads(run_tspo("plan", "tiny/grpo", "--json", *settings, *more).out)
        for more in ((), ("--set", "train.average_checkpoints=1"))
    ]
    checkpoints, without = (plan["disk_gib"]["checkpoints"] for plan in planned)
    assert checkpoints > without
