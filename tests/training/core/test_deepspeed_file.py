"""A DeepSpeed file of the user's own: what it may say, and what the experiment says alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tspo_cli.config.load_config import load_config
from tspo_cli.errors import InvalidInputError
from tspo_cli.training.core.deepspeed_setup import deepspeed_config


def merged(path: Path, content: dict[str, Any], *settings: str, bfloat16: bool = True) -> Any:
    file = path / "ds.json"
    file.write_text(json.dumps(content))
    config = load_config([], [f"deepspeed.config={file}", *settings])
    return deepspeed_config(config, bfloat16=bfloat16)


CPU = {"device": "cpu"}


@pytest.mark.parametrize(
    ("content", "key"),
    [
        ({"gradient_clipping": 0.1}, "optimizer.grad_clip"),
        ({"zero_optimization": {"stage": 3}}, "deepspeed.zero_stage"),
        ({"zero_optimization": {"offload_optimizer": CPU}}, "deepspeed.offload_optimizer"),
        ({"zero_optimization": {"offload_optimizer": {"device": "nvme"}}}, "offload_optimizer"),
        ({"bf16": {"enabled": False}}, "model.dtype"),
        ({"bfloat16": {"enabled": False}}, "model.dtype"),
        ({"data_types": {"grad_accum_dtype": "bf16"}}, "deepspeed.gradient_dtype"),
        ({"fp16": {"enabled": True}}, "model.dtype"),
        ({"torch_autocast": {"enabled": True}}, "model.dtype"),
        ({"amp": {"enabled": True}}, "model.dtype"),
    ],
)
def test_what_the_experiment_says_is_not_changed_silently(
    content: dict[str, Any], key: str, tmp_path: Path
) -> None:
    """The record of the run, `tspo plan` and --resume know the experiment, not the file."""
    with pytest.raises(InvalidInputError, match=key) as refused:
        merged(tmp_path, content, "deepspeed.zero_stage=2")
    assert "ds.json" in str(refused.value)


def test_a_file_may_repeat_the_experiment(tmp_path: Path) -> None:
    """As files of other trainers do; "auto" means the experiment's value."""
    content = {
        "bf16": {"enabled": True},
        "gradient_clipping": 1,
        "data_types": {"grad_accum_dtype": "fp32"},
        "zero_optimization": {
            "stage": 3,
            "offload_optimizer": {"device": "cpu", "pin_memory": False, "buffer_count": 4},
            "overlap_comm": True,
        },
        "fp16": {"enabled": False},
        "steps_per_print": 7,
    }
    settings = ["deepspeed.zero_stage=3", "deepspeed.offload_optimizer=true"]
    found = merged(tmp_path, content, *settings)
    assert found["zero_optimization"]["overlap_comm"] is True
    assert found["zero_optimization"]["offload_optimizer"]["pin_memory"] is False
    assert found["steps_per_print"] == 7
    none = {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "none"}}}
    assert merged(tmp_path, none, "deepspeed.zero_stage=2")["zero_optimization"]["stage"] == 2
    auto = {"gradient_clipping": "auto", "bf16": {"enabled": "auto"}}
    assert merged(tmp_path, auto, "optimizer.grad_clip=0.3")["gradient_clipping"] == 0.3
