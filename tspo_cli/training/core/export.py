"""Model directories of the policy under training."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers.utils.logging import disable_progress_bar

from tspo_cli.disk import WriteError, delete, follow_umask, replace_directory, writing
from tspo_cli.models.lora import save_adapter
from tspo_cli.training.core.distributed import barrier, rank
from tspo_cli.training.core.engine_weights import is_plain_model, weights_one_by_one
from tspo_cli.training.core.optimizer_state import full_parameters
from tspo_cli.training.core.training_core import TrainingCore

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def empty_model(core: TrainingCore, device: torch.device | None = None) -> Any:
    """A plain model of the same shape and dtype with whole parameters of its own, on `device`
    (None: that of the learner).
    """
    from transformers import AutoModelForCausalLM

    module = core.module
    dtype = next(module.parameters()).dtype
    model = (
        AutoModelForCausalLM.from_config(module.config, dtype=dtype)
        .to(device or core.device)
        .eval()
    )
    model.generation_config = copy.deepcopy(module.generation_config)
    return model


@contextmanager
def exported_model(
    core: TrainingCore, directory: Path, tokenizer: PreTrainedTokenizerFast
) -> Iterator[Path]:
    """Write a plain model directory (safetensors, config, tokenizer) and give its path, at which
    the block adds what belongs to it. Then it takes the place of `directory`, whole or not at all.
    All processes call it.
    """
    is_plain = is_plain_model(core.config, core.zero_stage)
    weights: dict[str, torch.Tensor] = {}
    for name, value in () if is_plain else weights_one_by_one(core):
        if rank() == 0:  # a GPU has no room for two more models
            weights[name] = value.cpu()
    needed = sum(value.nbytes for value in weights.values() or core.module.parameters())
    with _replacing(directory, needed) as new:
        if rank() == 0:
            model = core.module
            if weights:
                model = empty_model(core, torch.device("cpu"))
                unknown = model.load_state_dict(weights, strict=False).unexpected_keys
                assert not unknown, unknown
            disable_progress_bar()
            model.save_pretrained(new)
            tokenizer.save_pretrained(new)
            follow_umask(new)
        yield new


@contextmanager
def _replacing(directory: Path, needed: int) -> Iterator[Path]:
    """Give the path at which the first process writes a directory of about `needed` bytes, which
    takes the place of `directory` after the block. All processes call it.
    """
    new = directory.with_name(f".{directory.name}.tmp")
    if rank() == 0:
        delete(new)
    try:
        with writing(directory, needed):
            yield new
    except WriteError:  # what does not fit leaves its room to others
        if rank() == 0:
            shutil.rmtree(new, ignore_errors=True)
        raise
    if rank() == 0:
        replace_directory(new, directory)
    barrier()


def rounding_note(core: TrainingCore) -> str:
    """Where the exported weights are not those that evaluations of the run computed with: how they
    differ. Empty elsewhere.
    """
    if not (core.is_bfloat16 and core.config.lora.as_adapters(bfloat16=True)):
        return ""
    return (
        "adapters are merged into its weights and rounded to bfloat16, so that tspo eval may score "
        "it differently from the run, which evaluates the adapters themselves"
    )


def export_adapter(core: TrainingCore, directory: Path) -> None:
    """Write the adapters alone, as peft loads them, whole or not at all. All processes call it."""
    # Every process reads every parameter: at ZeRO 3 that takes all of them.
    parameters = [
        (name, value)
        for name, value in full_parameters(core.engine, core.module)
        if ".lora_" in name
    ]
    needed = sum(value.nbytes for _, value in parameters)
    with _replacing(directory, needed) as new:
        if rank() == 0:
            save_adapter(parameters, core.config.lora, core.config.model, new)
