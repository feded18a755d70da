"""`model.frozen_layers`: lower layers and embeddings stay as they are, all else is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import Finished, Playground, run_tspo
from tspo_cli.config.load_config import load_config
from tspo_cli.runs import read_jsonl
from tspo_cli.training.planning.model_shape import model_shape
from tspo_cli.training.policy import starting_policy
from tspo_cli.training.start.start_warnings import trained_parameters

Tspo = Callable[..., Finished]
FROZEN = ("model.embed_tokens.", "model.layers.0.")


def changed_names(start: Path, end: Path) -> set[str]:
    before, after = (load_file(folder / "model.safetensors") for folder in (start, end))
    assert before.keys() == after.keys()
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


@pytest.mark.parametrize(
    "options",
    [
        {"credit__algorithm": "tspo"},
        {"credit__algorithm": "ppo"},
        {"loss__kl": 0.01, "train__gradient_checkpointing": "true"},
        {"train__processes": 2, "deepspeed__zero_stage": 2},
        {"train__processes": 2, "deepspeed__zero_stage": 3},
    ],
)
def test_lower_layers_stay_and_upper_ones_learn(
    playground: Playground, tspo: Tspo, tmp_path: Path, options: dict[str, object]
) -> None:
    more = {"model__frozen_layers": 1, "train__steps": 2, "optimizer__lr": 0.01, "eval__every": 0}
    more["loss__entropy"] = 0.01  # a gradient, also where no rollout is rewarded
    tspo("train", "tiny/grpo", "--out", tmp_path, *playground.settings(**more, **options))
    changed = changed_names(playground.model, tmp_path / "model")
    assert any(name.startswith("model.layers.1.") for name in changed)
    assert [name for name in changed if name.startswith(FROZEN)] == []
    assert all(row["parity"] < 1e-4 for row in read_jsonl(tmp_path / "metrics.jsonl"))


def test_a_resumed_run_is_the_run_that_was_never_stopped(
    playground: Playground, tspo: Tspo, tmp_path: Path
) -> None:
    options = {"model__frozen_layers": 1, "eval__every": 0, "checkpoint__every": 2}
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    four, two = (playground.settings(train__steps=steps, **options) for steps in (4, 2))
    tspo("train", "tiny/tspo", "--out", whole, *four)
    tspo("train", "tiny/tspo", "--out", halves, *two)
    tspo("train", "tiny/tspo", "--out", halves, "--resume", *four)
    assert changed_names(whole / "model", halves / "model") == set()
    other = playground.settings(train__steps=6, **{**options, "model__frozen_layers": 0})
    done = run_tspo("train", "tiny/tspo", "--out", halves, "--resume", *other)
    assert (done.code, "model.frozen_layers" in done.err) == (3, True), done.err


def test_the_plan_counts_what_is_trained(playground: Playground, tspo: Tspo) -> None:
    settings = playground.settings(model__frozen_layers=1)
    words = [word for word in settings if word != "--set"]
    config = load_config([], ["credit.algorithm=grpo", *words])
    _, model = starting_policy(config, "cpu")
    trained = trained_parameters(model)
    shape = model_shape(config)
    assert shape.parameters() - shape.frozen(1) == trained
    planned = json.loads(tspo("plan", "tiny/grpo", "--json", *settings).out)
    assert planned["trained_parameters"] == trained
    assert (
        f"({trained:,} of them trained)" in tspo("train", "tiny/grpo", "--dry-run", *settings).err
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model__frozen_layers": 2}, "2 leaves nothing to train, the model has 2 layers"),
        ({"model__frozen_layers": 1, "lora__rank": 2}, "set one of the two to 0"),
    ],
)
def test_what_leaves_nothing_to_train_is_refused(
    playground: Playground, tmp_path: Path, options: dict[str, object], message: str
) -> None:
    out = tmp_path / "run"
    done = run_tspo("train", "tiny/grpo", "--out", out, *playground.settings(**options))
    assert (done.code, "Traceback" in done.err) == (3, False)
    assert message in done.err
    assert not (out / "metrics.jsonl").exists()
