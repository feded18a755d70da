"""tspo plan says what it cannot estimate, and refuses options that would change nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tspo_cli.commands.app import app
from tspo_cli.config.load_config import load_config
from tspo_cli.errors import InvalidInputError, UsageError
from tspo_cli.training.planning.model_shape import model_shape


def test_where_no_time_is_estimated_the_plan_says_how_to_get_one() -> None:
    done = CliRunner().invoke(app, ["plan", "tiny/warmstart"])
    assert "time: not estimated; --rates RUN" in done.stdout
    timed = CliRunner().invoke(app, ["plan", "tiny/warmstart", "--gpus", "1"])
    assert "s a step" in timed.stdout
    assert "not estimated" not in timed.stdout


@pytest.mark.parametrize("more", [[], ["--rates", "runs/x"], ["--rates", "runs/x", "--gpus", "1"]])
def test_rollout_tokens_without_a_time_to_compute(more: list[str]) -> None:
    done = CliRunner().invoke(app, ["plan", "tiny/warmstart", "--rollout-tokens", "600", *more])
    assert isinstance(done.exception, UsageError)
    assert "--gpus N" in str(done.exception)


@pytest.mark.parametrize("option", ["--gpu-memory", "--tflops", "--mfu"])
def test_the_size_of_a_gpu_without_a_gpu(option: str) -> None:
    """A plan for the CPU was compared with the GPU's memory, and fitted."""
    value = "0.5" if option == "--mfu" else "80"
    done = CliRunner().invoke(app, ["plan", "qwen2.5-7b/tspo", option, value])
    assert isinstance(done.exception, UsageError)
    assert "--gpus N" in str(done.exception)


def test_a_plan_says_that_it_fits_and_no_time_is_zero() -> None:
    sizes = ["plan", "qwen2.5-3b/tspo", "--gpus", "8", "--gpu-memory", "80"]
    plan = CliRunner().invoke(app, [*sizes, "--set", "train.steps=1"]).stdout
    assert re.search(r"it fits: \d+\.\d of the 79\.0 GiB", plan)
    assert "\n8 processes, ZeRO" in plan
    assert "updates a step, 1 step\n" in plan
    assert "without rollouts" in plan
    assert json.loads(CliRunner().invoke(app, [*sizes, "--json"]).stdout)["gpu_offers_gib"] == 79.0
    small = CliRunner().invoke(app, ["plan", "tiny/warmstart", "--gpus", "1"]).stdout
    assert "\n1 process, ZeRO" in small
    time = next(line for line in small.splitlines() if line.startswith("time: "))
    amounts = [float(number) for number in re.findall(r"[\d.]+(?= (?:s|min|h)\b)", time)]
    assert len(amounts) == 2
    assert min(amounts) > 0
    assert "rollouts" not in time


SIZES = {
    "model_type": "qwen2",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 1000,
}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "config.json"),
        ('{"model_type": ', "config.json"),
        ("[1]", "expected a JSON object"),
        ({"hidden_size": "64"}, 'hidden_size: expected a size, got "64"'),
        ({"hidden_size": 64.5}, "hidden_size: expected a size"),
        ({"hidden_size": True}, "hidden_size: expected a size, got true"),
        ({"hidden_size": 10**30}, "hidden_size: expected a size"),
        ({"hidden_size": -64}, "hidden_size: expected a size"),
        ({"num_attention_heads": 0}, "num_attention_heads: expected a size, got 0"),
        ({"num_attention_heads": None}, "expected the key 'num_attention_heads'"),
        ({"head_dim": "16"}, "head_dim: expected a size"),
        ({"num_key_value_heads": [2, 2]}, "num_key_value_heads: expected a size"),
        ({"intermediate_size": [128, 64]}, "intermediate_size: expected a size"),
    ],
)
def test_a_configuration_that_is_no_models(
    text: str | dict[str, object], problem: str, tmp_path: Path
) -> None:
    file = tmp_path / "config.json"
    file.write_text(text if isinstance(text, str) else json.dumps(SIZES | text))
    with pytest.raises(InvalidInputError) as refused:
        model_shape(load_config(["tiny/tspo"], [f"model.path={tmp_path}"]))
    assert str(file) in str(refused.value)
    assert problem in str(refused.value)
