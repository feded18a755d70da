"""The DeepSpeed configuration of an experiment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tspo_cli.config.schema import Config
from tspo_cli.config.tables import merge
from tspo_cli.errors import InvalidInputError
from tspo_cli.runs import read_json

# Keys of a DeepSpeed file that the experiment sets, and where.
SET_ELSEWHERE = {
    "optimizer": "[optimizer]",
    "scheduler": "[optimizer]",
    "train_batch_size": "[rollout] or train.batch_size",
    "train_micro_batch_size_per_gpu": "train.tokens_per_micro_batch",
    "gradient_accumulation_steps": "train.tokens_per_micro_batch",
    "bfloat16": "model.dtype",  # an old name of bf16
}
# Keys that a file may repeat, but not change: the record of a run, its plan and --resume know what
# the experiment says.
SET_ALIKE: dict[tuple[str, ...], str] = {
    ("gradient_clipping",): "optimizer.grad_clip",
    ("bf16", "enabled"): "model.dtype",
    ("zero_optimization", "stage"): "deepspeed.zero_stage",
    ("zero_optimization", "offload_optimizer", "device"): "deepspeed.offload_optimizer",
    ("data_types", "grad_accum_dtype"): "deepspeed.gradient_dtype",
}
_OTHER_PRECISION = ("fp16", "amp", "torch_autocast")


def deepspeed_config(config: Config, *, bfloat16: bool) -> dict[str, Any]:
    """The generated DeepSpeed configuration, with the user's JSON file (config.deepspeed.config)
    merged over it.

    The training core makes micro-batches and accumulates gradients itself, so the batch keys stay
    1. A value "auto" in the file asks the trainer to fill it in: the generated value stays.

    Raises:
        InvalidInputError: the file is no JSON object, says otherwise than the experiment, or asks
        for another precision than model.dtype can have.
    """
    zero: dict[str, Any] = {"stage": config.deepspeed.zero_stage}
    if config.deepspeed.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": True}
    generated: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.optimizer.grad_clip,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "bf16": {"enabled": bfloat16},
        "steps_per_print": 10**9,
    }
    if sums_in_float32(config, bfloat16=bfloat16):
        generated["data_types"] = {"grad_accum_dtype": "fp32"}
    if not config.deepspeed.config:
        return generated
    path = Path(config.deepspeed.config)
    content = read_json(path)
    if not isinstance(content, dict):
        raise InvalidInputError(f"{path}: expected a JSON object with DeepSpeed's keys")
    user = _without_auto(content)
    for key, setting in SET_ELSEWHERE.items():
        if key in user:
            raise InvalidInputError(
                f"{path}: {key!r} is set by {setting} of the experiment; remove it from this file"
            )
    for key in _OTHER_PRECISION:
        if _at(user, (key, "enabled")):
            raise InvalidInputError(
                f"{path}: {key} is not supported; remove it and set model.dtype to bfloat16 or "
                "float32"
            )
    for keys, setting in SET_ALIKE.items():
        given, ours = _at(user, keys), _at(generated, keys)
        if given is not None and given != ours and (given, ours) != ("none", None):
            raise InvalidInputError(
                f"{path}: {'.'.join(keys)} is {json.dumps(given)}, which {setting} of the "
                f"experiment does not say (it makes it {json.dumps(ours)}); set that, and remove "
                "the key from this file"
            )
    return merge(generated, user)


def _at(table: Any, keys: tuple[str, ...]) -> Any:
    """The value at a path of keys; None where there is none."""
    for key in keys:
        table = table.get(key) if isinstance(table, dict) else None
    return table


def sums_in_float32(config: Config, *, bfloat16: bool) -> bool:
    """True where the gradients of a bfloat16 model are added up in float32."""
    wanted = config.deepspeed.gradient_dtype
    return bfloat16 and (
        wanted == "float32" or (wanted == "auto" and config.deepspeed.zero_stage > 1)
    )


def frozen_config(*, bfloat16: bool, offload: bool, pin: bool) -> dict[str, Any]:
    """DeepSpeed's configuration of a model that is not trained: each process keeps a share of its
    parameters, on its device or (`offload`) in CPU memory, pinned or not.
    """
    zero: dict[str, Any] = {"stage": 3}
    if offload:
        zero["offload_param"] = {"device": "cpu", "pin_memory": pin}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": zero,
        "bf16": {"enabled": bfloat16},
        "steps_per_print": 10**9,
    }


def _without_auto(value: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_auto(inner) if isinstance(inner, dict) else inner
        for key, inner in value.items()
        if inner != "auto"
    }
