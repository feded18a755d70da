"""Model directories of the policy under training."""

from __future__ import annotations

import copy
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.utils.logging import disable_progress_bar

from tspo_cli.disk import WriteError, follow_umask, replace_directory, writing
from tspo_cli.models.lora import save_adapter
from tspo_cli.training.core.distributed import barrier, rank
from tspo_cli.training.core.engine_weights import is_plain_model, whole_weights
from tspo_cli.training.core.optimizer_state import full_parameters
from tspo_cli.training.core.training_core import TrainingCore

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def empty_model(core: TrainingCore) -> Any:
    """A plain model of the same shape, dtype and device with whole parameters of its own."""
    from transformers import AutoModelForCausalLM

    module = core.module
    dtype = next(module.parameters()).dtype
    model = AutoModelForCausalLM.from_config(module.config, dtype=dtype).to(core.device).eval()
    model.generation_config = copy.deepcopy(module.generation_config)
    return model


def export_model(core: TrainingCore, directory: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """Write a plain model directory (safetensors, config, tokenizer), whole or not at all. All
    processes call it.
    """
    is_plain = is_plain_model(core.config, core.zero_stage)
    weights = None if is_plain else whole_weights(core)
    if rank() == 0:
        temporary = directory.with_name(f".{directory.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        model = core.module
        if weights is not None:
            model = empty_model(core)
            unknown = model.load_state_dict(weights, strict=False).unexpected_keys
            assert not unknown, unknown
        disable_progress_bar()
        try:
            with writing(directory, sum(value.nbytes for value in model.parameters())):
                model.save_pretrained(temporary)
                tokenizer.save_pretrained(temporary)
                follow_umask(temporary)
        except WriteError:  # what does not fit leaves its room to others
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        replace_directory(temporary, directory)
    barrier()


def export_adapter(core: TrainingCore, directory: Path) -> None:
    """Write the adapters alone, as peft loads them. All processes call it."""
    # Every process reads every parameter: at ZeRO 3 that takes all of them.
    parameters = [
        (name, value)
        for name, value in full_parameters(core.engine, core.module)
        if ".lora_" in name
    ]
    if rank() == 0:
        save_adapter(parameters, core.config.lora, core.config.model, directory)
    barrier()
