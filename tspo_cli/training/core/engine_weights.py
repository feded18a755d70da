"""Which weights the rollout engine computes with: the learner's own, or a copy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from tspo_cli.config.schema import Config
from tspo_cli.models.lora import merged
from tspo_cli.training.core.optimizer_state import full_parameters

if TYPE_CHECKING:
    import torch

    from tspo_cli.training.core.training_core import TrainingCore


def engine_copies_weights(config: Config, zero_stage: int) -> bool:
    """True where the rollout engine has weights of its own: vLLM, an engine that samples one step
    ahead, and a learner whose parameters are no plain model.
    """
    return (
        config.rollout.engine == "vllm"
        or config.rollout.one_step_off
        or not is_plain_model(config, zero_stage)
    )


def is_plain_model(config: Config, zero_stage: int) -> bool:
    """True where the learner's parameters are whole (ZeRO 3 shards them) and without adapters."""
    return zero_stage < 3 and not config.lora.rank


def weights_for_engine(core: TrainingCore) -> Mapping[str, torch.Tensor] | None:
    """`whole_weights` for an engine with weights of its own; None for one that shares the
    learner's.
    """
    copies = engine_copies_weights(core.config, core.zero_stage)
    return whole_weights(core) if copies else None


def whole_weights(core: TrainingCore) -> dict[str, torch.Tensor]:
    """All parameters of the plain model by name, see `weights_one_by_one`. Where the learner's
    parameters are a plain model these are its own tensors. All processes call it.
    """
    return dict(weights_one_by_one(core))


def weights_one_by_one(core: TrainingCore) -> Iterator[tuple[str, torch.Tensor]]:
    """Name and value of every parameter of the plain model, in its dtype, adapters merged into
    them. All processes must iterate over all of them.
    """
    config, module = core.config, core.module
    if is_plain_model(config, core.zero_stage):
        for name, parameter in module.named_parameters():
            yield name, parameter.detach()
        return
    dtype = next(module.parameters()).dtype
    parameters = full_parameters(core.engine, module)
    if config.lora.rank:
        parameters = merged(parameters, config.lora)
    for name, value in parameters:
        yield name, value.to(dtype)
