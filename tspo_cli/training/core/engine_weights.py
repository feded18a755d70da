"""Which weights the rollout engine computes with: the learner's own, or a copy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tspo_cli.config.schema import Config
from tspo_cli.models.lora import adapter_tensors, frozen_tensors, merged
from tspo_cli.training.core.optimizer_state import full_parameters

if TYPE_CHECKING:
    import torch

    from tspo_cli.training.core.training_core import TrainingCore


def engine_copies_weights(config: Config, zero_stage: int, *, bfloat16: bool) -> bool:
    """True where the rollout engine has weights of its own: vLLM, an engine that samples one step
    ahead, and a learner whose parameters are sharded or to be merged.
    """
    return (
        config.rollout.engine == "vllm"
        or config.rollout.one_step_off
        or zero_stage == 3
        or (config.lora.rank > 0 and not config.lora.as_adapters(bfloat16=bfloat16))
    )


def is_plain_model(config: Config, zero_stage: int) -> bool:
    """True where the learner's parameters are whole (ZeRO 3 shards them) and without adapters."""
    return zero_stage < 3 and not config.lora.rank


def weights_for_engine(core: TrainingCore) -> dict[str, torch.Tensor]:
    """What an engine with weights of its own gets, by name: all parameters of the plain model, see
    `weights_one_by_one`; or, where it computes with adapters (lora.handover), all parameters of
    the adapted model. vLLM has the frozen ones already and gets the adapters alone, named as in a
    peft file.

    Where the learner's parameters are a plain model these are its own tensors. All processes call
    it.
    """
    if not core.config.lora.as_adapters(bfloat16=core.is_bfloat16):
        return whole_weights(core)
    parameters = _in_model_dtype(core)
    if core.config.rollout.engine == "vllm":
        return dict(adapter_tensors(parameters))
    return dict(parameters)


def whole_weights(core: TrainingCore) -> dict[str, torch.Tensor]:
    """All parameters of the plain model by name, see `weights_one_by_one`."""
    return dict(weights_one_by_one(core))


def frozen_weights(core: TrainingCore) -> dict[str, torch.Tensor]:
    """The parameters that adapters lie beside, named as in the plain model. All processes call
    it.
    """
    return dict(frozen_tensors(_in_model_dtype(core)))


def weights_one_by_one(core: TrainingCore) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and value of every parameter of the plain model, in its dtype, adapters merged into
    them. All processes must iterate over all of them.
    """
    config, module = core.config, core.module
    if is_plain_model(config, core.zero_stage):
        for name, parameter in module.named_parameters():
            yield name, parameter.detach()
        return
    if not config.lora.rank:
        yield from _in_model_dtype(core)
        return
    dtype = next(module.parameters()).dtype
    for name, value in merged(full_parameters(core.engine, module), config.lora):
        yield name, value.to(dtype)


def _in_model_dtype(core: TrainingCore) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and value of every parameter of the learner's module, as it computes with them."""
    dtype = next(core.module.parameters()).dtype
    for name, value in full_parameters(core.engine, core.module):
        yield name, value.to(dtype)
