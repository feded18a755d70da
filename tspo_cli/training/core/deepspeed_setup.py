"""What DeepSpeed is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tspo_cli.config.schema import Config
from tspo_cli.errors import InvalidInputError
from tspo_cli.runs import read_json

# Where the experiment says what a DeepSpeed file might say too.
SET_ELSEWHERE = {
    "optimizer": "[optimizer]",
    "scheduler": "[optimizer]",
    "train_batch_size": "[rollout] or train.batch_size",
    "train_micro_batch_size_per_gpu": "train.tokens_per_micro_batch",
    "gradient_accumulation_steps": "train.tokens_per_micro_batch",
}


def deepspeed_config(config: Config, *, bfloat16: bool) -> dict[str, Any]:
    """The generated DeepSpeed configuration, with the user's JSON file (config.deepspeed.config)
    merged over it.

    Micro-batches and accumulation are handled by the learner, so the batch keys stay 1. Values
    "auto" in the file (they ask a trainer to fill them in) keep what was generated.

    Raises:
        InvalidInputError: the file is no JSON object, sets what the experiment sets, or asks for
        fp16.
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
    own = _without_auto(own)
    for key, place in SET_ELSEWHERE.items():
        if key in own:
            raise InvalidInputError(
                f"{path}: {key!r} is set by {place} of the experiment; remove it from this file"
            )
    if isinstance(own.get("fp16"), dict) and own["fp16"].get("enabled"):
        raise InvalidInputError(
            f"{path}: fp16 is not supported; remove it and set model.dtype to bfloat16 or float32"
        )
    return _merge(generated, own)


def _without_auto(value: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_auto(inner) if isinstance(inner, dict) else inner
        for key, inner in value.items()
        if inner != "auto"
    }


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merge(base[key], value) if both else value
    return merged
