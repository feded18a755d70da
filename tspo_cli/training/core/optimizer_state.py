"""Whole parameters and Adam moments of a DeepSpeed engine by name, whatever the ZeRO stage. Frozen
parameters have no moments and belong to no state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tspo_cli.config.schema import OptimizerConfig
from tspo_cli.shares import shares

MOMENTS = ("exp_avg", "exp_avg_sq")

Masters = dict[torch.Tensor, torch.Tensor]
"""For each parameter of the model the float32 one that AdamW updates."""


def full_parameters(engine: Any, module: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and value of every parameter of `module`, one at a time; trained ones in float32. All
    processes must iterate over all of them.
    """
    import deepspeed
    from deepspeed.utils import safe_get_full_fp32_param

    masters = _masters(engine)
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and masters is not None:
            yield name, masters[parameter].detach()
        elif parameter.requires_grad:
            yield name, safe_get_full_fp32_param(parameter)
        elif hasattr(parameter, "ds_id"):
            with deepspeed.zero.GatheredParameters([parameter]):
                whole = parameter.detach().clone()
            yield name, whole
        else:
            yield name, parameter.detach()


def trained_parameters(module: Any) -> list[tuple[str, torch.nn.Parameter]]:
    """Name and value of the parameters that the optimiser updates."""
    return [
        (name, parameter)
        for name, parameter in module.named_parameters()
        if parameter.requires_grad
    ]


@dataclass(frozen=True, slots=True)
class Fragment:
    """Numbers of one tensor of the state, `KEY.<parameter>`, that this process holds or saves:
    `values` [n] are those of the flat tensor from `start` on, float32 in CPU memory.
    """

    name: str
    start: int
    values: torch.Tensor


def own_fragments(
    engine: Any, module: Any, *, has_moments: bool, rank: int, processes: int
) -> list[Fragment]:
    """This process's part of `full_state`; the parts of all processes are the whole, each number
    once. Nothing is sent: from ZeRO 1 on they are the numbers that the process updates. At ZeRO 0,
    where all have all, whole parameters are shared out by size.
    """
    masters, parameters = _masters(engine), trained_parameters(module)
    if masters is not None:
        sizes = {name: parameter.numel() for name, parameter in parameters}
        mine = set(shares(sizes, processes)[rank])
        parameters = [(name, parameter) for name, parameter in parameters if name in mine]
    found: list[Fragment] = []
    for name, parameter in parameters:
        for key in ("param", *MOMENTS):
            is_zero = key != "param" and not has_moments
            state = None if key == "param" or is_zero else key
            part = (
                _own_part(parameter, state, rank)
                if masters is None
                else (0, _of_master(engine, masters[parameter], state))
            )
            if part is None:
                break
            start, values = part
            values = torch.zeros_like(values) if is_zero else values
            found.append(Fragment(f"{key}.{name}", start, _in_cpu_memory(values.flatten())))
    return found


def _of_master(engine: Any, master: torch.Tensor, key: str | None) -> torch.Tensor:
    if key is None:
        return master
    moment: torch.Tensor = engine.optimizer.state[master][key]
    return moment


def _own_part(parameter: Any, key: str | None, rank: int) -> tuple[int, torch.Tensor] | None:
    """From ZeRO 1 on: where this process's numbers of a parameter begin, and the numbers of the
    parameter (`key` None) or of its moment. None: it holds none.
    """
    if hasattr(parameter, "ds_id"):
        values = parameter._z3_optimizer.get_local_fp32_param(parameter, key)
        start = rank * int(parameter.ds_tensor.ds_numel)
        count = min(values.numel(), parameter.ds_numel - start)  # the last part is padded
        return (start, values[:count]) if count > 0 else None
    place = parameter._hp_mapping
    if place is None:
        return None
    return place.lp_fragment_address.start, place.get_hp_fragment(key)


def full_state(
    engine: Any, module: Any, *, keep: bool, has_moments: bool
) -> dict[str, torch.Tensor]:
    """`param.<name>`, `exp_avg.<name>`, `exp_avg_sq.<name>` of the trained parameters, float32 in
    CPU memory; empty unless `keep`. Before the first update the moments are zeros.

    All processes call it.
    """
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    masters, state = _masters(engine), {}
    for name, parameter in trained_parameters(module):
        value = safe_get_full_fp32_param(parameter) if masters is None else masters[parameter]
        if keep:
            state[f"param.{name}"] = _in_cpu_memory(value)
        for key in MOMENTS:
            if not has_moments:
                value = torch.zeros_like(value)
            elif masters is None:
                value = safe_get_full_optimizer_state(parameter, key)
            else:
                value = engine.optimizer.state[masters[parameter]][key]
            if keep:
                state[f"{key}.{name}"] = _in_cpu_memory(value)
    return state


@torch.no_grad()
def restore_state(
    engine: Any, module: Any, state: Mapping[str, torch.Tensor], updates: int
) -> None:
    """Restore what `full_state` returned after `updates` updates. The engine must have made a step,
    so that its optimiser has moments to overwrite.
    """
    from deepspeed.utils import safe_set_full_optimizer_state

    masters = _masters(engine)
    for name, parameter in trained_parameters(module):
        _set_value(parameter, state[f"param.{name}"], masters)
        moments = {key: state[f"{key}.{name}"].to(parameter.device) for key in MOMENTS}
        if masters is None:
            for key, moment in moments.items():
                safe_set_full_optimizer_state(parameter, moment, key)
        else:
            for key, moment in moments.items():
                engine.optimizer.state[masters[parameter]][key].copy_(moment)
    set_update_count(engine, updates)


@torch.no_grad()
def set_parameters(engine: Any, module: Any, value: Callable[[str], torch.Tensor]) -> None:
    """Give every trained parameter the `value` of its name, whole and in float32. The moments stay.
    All processes call it.
    """
    masters = _masters(engine)
    for name, parameter in trained_parameters(module):
        _set_value(parameter, value(name), masters)


def _set_value(parameter: Any, value: torch.Tensor, masters: Masters | None) -> None:
    """Set a parameter, and the float32 one that the optimiser updates."""
    import deepspeed
    from deepspeed.utils import safe_set_full_fp32_param

    value = value.to(parameter.device)
    if hasattr(parameter, "ds_id"):
        with deepspeed.zero.GatheredParameters([parameter], modifier_rank=0):
            parameter.copy_(value)
    else:
        parameter.copy_(value)
    if masters is None:
        safe_set_full_fp32_param(parameter, value)
    else:
        masters[parameter].copy_(value)


def set_update_count(engine: Any, updates: int) -> None:
    """Set Adam's number of updates, which its bias correction depends on."""
    inner = getattr(engine.optimizer, "optimizer", engine.optimizer)
    for entry in inner.state.values():
        if "step" in entry:
            entry["step"] = torch.full_like(torch.as_tensor(entry["step"]), updates)


def whole_shape(parameter: torch.Tensor) -> tuple[int, ...]:
    """The shape of a parameter, also where ZeRO 3 keeps only a part of it here."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


def learning_rate(config: OptimizerConfig, update: int, total_updates: int) -> float:
    """Rate of update `update` (from 0) of `total_updates`: linear warm-up, then constant or linear
    to final_lr * lr.
    """
    if update < config.warmup:
        return config.lr * (update + 1) / config.warmup
    if config.schedule == "constant":
        return config.lr
    progress = (update - config.warmup) / max(1, total_updates - config.warmup)
    return config.lr * (1 - (1 - config.final_lr) * min(1.0, progress))


def _masters(engine: Any) -> Masters | None:
    """At ZeRO 0: for each parameter of the model the float32 one that AdamW updates (itself, or the
    master copy of a bfloat16 parameter). None at other stages, where DeepSpeed's safe_get and
    safe_set functions find them.
    """
    if engine.zero_optimization_stage() > 0:
        return None
    optimizer = engine.optimizer
    whole = [group["params"] for group in optimizer.param_groups]
    trained = whole if isinstance(optimizer, torch.optim.Optimizer) else optimizer.fp16_groups
    return {
        parameter: master
        for group, masters in zip(trained, whole, strict=True)
        for parameter, master in zip(group, masters, strict=True)
    }


def _in_cpu_memory(value: torch.Tensor) -> torch.Tensor:
    """A copy in CPU memory, or the tensor itself where it is there already."""
    return value.detach().cpu().contiguous()
