"""What DeepSpeed is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tspo_cli.config.schema import Config
from tspo_cli.errors import InvalidInputError
from tspo_cli.runs import read_json


def deepspeed_config(config: Config, *, bfloat16: bool) -> dict[str, Any]:
    """The generated DeepSpeed configuration, with the user's JSON file (config.deepspeed.config) merged over it.

    Micro-batches and accumulation are handled by the learner, so the batch keys stay 1.

    Raises:
        InvalidInputError: the file is no JSON object, or sets an optimizer or scheduler (those are config.optimizer's).
    """
    zero: dict[str, Any] = {"stage": config.deepspeed.zero_stage}
    if config.deepspeed.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    generated = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.optimizer.grad_clip,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": bfloat16},
        "steps_per_print": 10**9,
    }
    if not config.deepspeed.config:
        return generated
    path = Path(config.deepspeed.config)
    own = read_json(path)
    if not isinstance(own, dict):
        raise InvalidInputError(f"{path}: expected a JSON object with DeepSpeed's keys")
    for key in ("optimizer", "scheduler"):
        if key in own:
            raise InvalidInputError(
                f"{path}: {key!r} is set by [optimizer] of the experiment; remove it from this file"
            )
    return _merge(generated, own)


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merge(base[key], value) if both else value
    return merged
