"""Training and evaluation on a GPU, as a user starts them."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Playground
from tspo_cli.runs import read_jsonl

pytestmark = pytest.mark.gpu
Tspo = Callable[..., Any]


@pytest.mark.parametrize(
    ("dtype", "more"),
    [
        ("float32", {}),
        ("bfloat16", {"train__compile": "true", "train__gradient_checkpointing": "true"}),
        ("bfloat16", {"deepspeed__zero_stage": 2, "deepspeed__offload_optimizer": "true"}),
        ("bfloat16", {"deepspeed__zero_stage": 3, "loss__kl": 0.001}),
    ],
    ids=["float32", "compiled and recomputed", "offloaded", "zero 3"],
)
def test_a_run_trains_and_its_engine_follows(
    playground: Playground, tspo: Tspo, tmp_path: Path, dtype: str, more: dict[str, Any]
) -> None:
    run = tmp_path / "run"
    # A policy that knows nothing has groups without advantages; the entropy bonus always has a
    # gradient.
    settings = playground.settings(model__dtype=dtype, train__steps=3, loss__entropy=0.01, **more)
    tspo("train", "tiny/tspo", "--out", run, *settings)
    rows = read_jsonl(run / "metrics.jsonl")
    assert len(rows) == 3
    assert all(math.isfinite(row["loss"]) and row["grad_norm"] > 0 for row in rows)
    assert all(row["parity"] < (1e-4 if dtype == "float32" else 0.05) for row in rows)
    assert (run / "model/model.safetensors").is_file()


def test_a_resumed_run_goes_on(playground: Playground, tspo: Tspo, tmp_path: Path) -> None:
    run = tmp_path / "run"
    tspo(
        "train",
        "tiny/tspo",
        "--out",
        run,
        *playground.settings(model__dtype="bfloat16", train__steps=2),
    )
    resumed = playground.settings(model__dtype="bfloat16", train__steps=4)
    tspo("train", "tiny/tspo", "--out", run, "--resume", *resumed)
    assert [row["step"] for row in read_jsonl(run / "metrics.jsonl")] == [1, 2, 3, 4]


def test_greedy_answers_are_those_of_the_cpu(
    playground: Playground, tspo: Tspo, tmp_path: Path
) -> None:
    arguments = [
        "eval",
        str(playground.model),
        "--data",
        str(playground.world / "test.jsonl"),
        "--index",
    ]
    arguments += [
        str(playground.index),
        "--set",
        "model.dtype=float32",
        "--set",
        "rollout.prompt=short",
        "--json",
    ]
    here = tspo(*arguments, "--out", tmp_path / "gpu")
    there = subprocess.run(
        [sys.executable, "-m", "tspo_cli", *arguments, "--out", str(tmp_path / "cpu")],
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    ours, theirs = (json.loads(out)["results"][0] for out in (here.out, there.stdout))
    for name in ("n", "em", "f1", "searches", "gold_recall"):
        assert ours[name] == theirs[name], name
