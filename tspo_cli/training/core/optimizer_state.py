"""Whole parameters and Adam moments of a DeepSpeed engine by name, whatever the ZeRO stage. Frozen
parameters have no moments and belong to no state.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

MOMENTS = ("exp_avg", "exp_avg_sq")


def full_parameters(engine: Any, module: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and value of every parameter of `module`, one at a time; trained ones in float32. All
    processes must go through them.
    """
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    masters = _masters(engine)
    for name, one in module.named_parameters():
        if one.requires_grad:
            yield name, safe_get_full_fp32_param(one) if masters is None else masters[one].detach()
        elif hasattr(one, "ds_id"):
            with deepspeed.zero.GatheredParameters([one]):
                whole = one.detach().clone()
            yield name, whole
        else:
            yield name, one.detach()


def trained(module: Any) -> list[tuple[str, torch.nn.Parameter]]:
    """Name and parameter of what the optimiser works on."""
    return [(name, one) for name, one in module.named_parameters() if one.requires_grad]


def full_state(engine: Any, module: Any, *, keep: bool) -> dict[str, torch.Tensor]:
    """`param.<name>`, `exp_avg.<name>`, `exp_avg_sq.<name>` of what is trained, float32 in CPU
    memory; empty unless `keep`.

    After at least one update, on all processes.
    """
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    masters, state = _masters(engine), {}
    for name, one in trained(module):
        value = safe_get_full_fp32_param(one) if masters is None else masters[one]
        if keep:
            state[f"param.{name}"] = _own(value)
        for key in MOMENTS:
            if masters is None:
                value = safe_get_full_optimizer_state(one, key)
            else:
                value = engine.optimizer.state[masters[one]][key]
            if keep:
                state[f"{key}.{name}"] = _own(value)
    return state


@torch.no_grad()
def restore_state(
    engine: Any, module: Any, state: Mapping[str, torch.Tensor], updates: int
) -> None:
    """Put back what `full_state` gave, after `updates` updates. The engine must have made a step,
    so that its optimiser has moments to overwrite.
    """
    import deepspeed
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_full_optimizer_state

    masters = _masters(engine)
    for name, one in trained(module):
        value = state[f"param.{name}"].to(one.device)
        if hasattr(one, "ds_id"):
            with deepspeed.zero.GatheredParameters([one], modifier_rank=0):
                one.copy_(value)
        else:
            one.copy_(value)
        moments = {key: state[f"{key}.{name}"].to(one.device) for key in MOMENTS}
        if masters is None:
            safe_set_full_fp32_param(one, value)
            for key, moment in moments.items():
                safe_set_full_optimizer_state(one, moment, key)
        else:
            masters[one].copy_(value)
            for key, moment in moments.items():
                engine.optimizer.state[masters[one]][key].copy_(moment)
    set_update_count(engine, updates)


def set_update_count(engine: Any, updates: int) -> None:
    """Make Adam's bias correction that of `updates` updates so far."""
    inner = getattr(engine.optimizer, "optimizer", engine.optimizer)
    for entry in inner.state.values():
        if "step" in entry:
            entry["step"] = torch.full_like(torch.as_tensor(entry["step"]), updates)


def whole_shape(parameter: torch.Tensor) -> tuple[int, ...]:
    """The shape of a parameter, also where ZeRO 3 keeps only a part of it here."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def _masters(engine: Any) -> dict[torch.Tensor, torch.Tensor] | None:
    """At ZeRO 0: for each parameter of the model the float32 one that AdamW works on (itself, or
    the master copy of a bfloat16 parameter). None at other stages, where DeepSpeed's safe_get and
    safe_set functions reach them.
    """
    if engine.zero_optimization_stage() > 0:
        return None
    optimizer = engine.optimizer
    whole = [group["params"] for group in optimizer.param_groups]
    own = whole if isinstance(optimizer, torch.optim.Optimizer) else optimizer.fp16_groups
    return {
        one: master
        for some, masters in zip(own, whole, strict=True)
        for one, master in zip(some, masters, strict=True)
    }


def _own(value: torch.Tensor) -> torch.Tensor:
    """A copy in CPU memory, or the tensor itself where it is there already."""
    return value.detach().cpu().contiguous()
