"""`tspo train --dry-run`: what it says of the data, the limits and the disk, and its warnings."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.conftest import Finished, Playground
from tspo_cli.config.load_config import load_config
from tspo_cli.models.load_model import load_model
from tspo_cli.training.planning.memory import GIB, written_gib
from tspo_cli.training.start.start_warnings import _learning_rates


def test_the_dry_run_says_epochs_limits_and_disk(
    playground: Playground, tspo: Callable[..., Finished]
) -> None:
    settings = playground.settings(train__steps=30)
    done = tspo("train", "tiny/grpo", "--dry-run", *settings)
    said = done.out + done.err
    assert "60 training questions (2 epochs)" in said
    assert "3 turns of 16, 2 observations of 96 (2 passages)" in said
    assert re.search(r"disk: \d+\.\d\d GB \(.*a model of .*GB free", said)


def test_the_recipes_of_the_demo_are_warned_of_nothing(
    playground: Playground, tspo: Callable[..., Finished]
) -> None:
    """The short style asks for no thought: 32 tokens hold its turns."""
    settings = playground.settings(**{"rollout.max_new_tokens": 32, "rollout.max_searches": 3})
    assert "do not hold" not in tspo("train", "tiny/tspo", "--dry-run", *settings).err


@pytest.mark.parametrize(
    ("setting", "key"),
    [
        ({"rollout.max_observation_tokens": 12}, "rollout.max_observation_tokens: 12 tokens"),
        ({"retriever.k": 20}, "do not hold the 20 passages"),
        ({"rollout.max_new_tokens": 4}, "rollout.max_new_tokens: 4 tokens"),
        (
            {"rollout.prompt": "search_r1", "rollout.max_new_tokens": 6},
            "rollout.max_new_tokens: 6 tokens",
        ),
    ],
)
def test_limits_too_small_for_the_data_are_warned_of(
    playground: Playground, tspo: Callable[..., Finished], setting: dict[str, object], key: str
) -> None:
    roomy = {"model.max_context": 0, "rollout.max_prompt_tokens": 1024}
    settings = playground.settings(**{**roomy, **setting})
    done = tspo("train", "tiny/grpo", "--dry-run", *settings)
    assert key in done.err
    assert "toy models" not in done.err


def test_a_run_that_keeps_nothing_writes_neither_checkpoints_nor_model(
    playground: Playground, tspo: Callable[..., Finished], tmp_path: Path
) -> None:
    settings = playground.settings(
        train__steps=1,
        checkpoint__every=0,
        train__export_model="false",
        eval__data="[]",
        eval__every=0,
    )
    dry = tspo("train", "tiny/grpo", "--dry-run", *settings)
    assert "disk: 0.00 GB (neither checkpoints nor model" in dry.out + dry.err
    run = tmp_path / "run"
    tspo("train", "tiny/grpo", "--out", run, *settings)
    assert not (run / "checkpoints").exists()
    assert not (run / "model").exists()
    assert (run / "metrics.jsonl").is_file()


def test_the_disk_that_is_announced_is_the_disk_that_is_used(
    playground: Playground, tspo: Callable[..., Finished], tmp_path: Path
) -> None:
    settings = playground.settings(
        train__steps=1, checkpoint__every=1, checkpoint__keep=1, eval__data="[]", eval__every=0
    )
    run = tmp_path / "run"
    tspo("train", "tiny/grpo", "--out", run, *settings)
    config = load_config([run / "config.toml"], [])
    module = load_model(run / "model")
    size = sum(weight.numel() * weight.element_size() for weight in module.parameters())
    parameters = sum(weight.numel() for weight in module.parameters())
    announced = written_gib(config, parameters, size, critic=False)
    for part, folder in (("checkpoint", "checkpoints"), ("model", "model")):
        weights = sum(path.stat().st_size for path in (run / folder).rglob("*.safetensors"))
        assert weights == pytest.approx(announced[part] * GIB, rel=0.1)


def test_a_rate_for_toys_on_a_large_model_is_warned_of() -> None:
    class Large:
        """A model of 60 M trained parameters, none of which exists."""

        def parameters(self) -> Iterator[torch.nn.Parameter]:
            yield torch.nn.Parameter(torch.empty(60_000_000, device="meta"))

    for rate, fine in (("2e-4", False), ("1e-6", True)):
        config = load_config([], [f"optimizer.lr={rate}"])
        lines = list(_learning_rates(config, Large()))
        assert bool(lines) != fine
        assert all("toy" in line and "lora.rank" in line for line in lines)
