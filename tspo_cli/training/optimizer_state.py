"""Whole parameters and Adam moments of a DeepSpeed engine by name, whatever the ZeRO stage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

MOMENTS = ("exp_avg", "exp_avg_sq")


def full_parameters(engine: Any, module: Any) -> dict[str, torch.Tensor]:
    """Every parameter of `module` in float32. All processes must call it."""
    from deepspeed.utils import safe_get_full_fp32_param

    if _plain(engine):
        return {name: one.detach() for name, one in module.named_parameters()}
    return {name: safe_get_full_fp32_param(one) for name, one in module.named_parameters()}


def full_state(engine: Any, module: Any) -> dict[str, torch.Tensor]:
    """`param.<name>`, `exp_avg.<name>`, `exp_avg_sq.<name>`, float32. After at least one update, on all processes."""
    from deepspeed.utils import safe_get_full_optimizer_state

    state = {f"param.{name}": value for name, value in full_parameters(engine, module).items()}
    for name, one in module.named_parameters():
        for key in MOMENTS:
            value = engine.optimizer.state[one][key] if _plain(engine) else safe_get_full_optimizer_state(one, key)
            state[f"{key}.{name}"] = value
    return state


@torch.no_grad()
def restore_state(engine: Any, module: Any, state: Mapping[str, torch.Tensor], updates: int) -> None:
    """Put back what `full_state` gave, after `updates` updates. The engine must have made a step, so that its optimiser
    has moments to overwrite."""
    import deepspeed
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    for name, one in module.named_parameters():
        value = state[f"param.{name}"].to(one.device)
        if hasattr(one, "ds_id"):
            with deepspeed.zero.GatheredParameters([one], modifier_rank=0):
                one.copy_(value)
        else:
            one.copy_(value)
        moments = {key: state[f"{key}.{name}"].to(one.device) for key in MOMENTS}
        if _plain(engine):
            for key, moment in moments.items():
                engine.optimizer.state[one][key].copy_(moment)
        else:
            safe_set_full_fp32_param(one, value)
            for key, moment in moments.items():
                safe_set_full_optimizer_state(one, moment, key)
    inner = engine.optimizer if _plain(engine) else engine.optimizer.optimizer
    for entry in inner.state.values():
        if "step" in entry:
            entry["step"] = torch.full_like(torch.as_tensor(entry["step"]), updates)


def _plain(engine: Any) -> bool:
    """True where DeepSpeed runs the optimiser itself on the module's parameters (ZeRO 0 in float32)."""
    return isinstance(engine.optimizer, torch.optim.Optimizer)
