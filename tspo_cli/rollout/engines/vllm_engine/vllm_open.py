"""Open the vLLM engine that an experiment asks for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tspo_cli.config.context import context_length
from tspo_cli.config.schema import Config
from tspo_cli.models.eos import saved_eos_ids
from tspo_cli.rollout.engines.vllm_engine.vllm_local import VllmEngine
from tspo_cli.rollout.engines.vllm_engine.vllm_servers import Siblings, VllmServers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def open_vllm(
    config: Config,
    tokenizer: PreTrainedTokenizerFast,
    *,
    dtype: str,
    folder: Path,
    siblings: Siblings,
    tell: Callable[[str], None],
) -> VllmEngine | VllmServers:
    """Servers where vllm.url names some, else an engine in this process, with the weights of
    model.path.

    Raises:
        MissingResourceError, InvalidInputError, RemoteServiceError: see `VllmEngine` and
        `VllmServers`.
    """
    eos, room = saved_eos_ids(config.model.path, tokenizer), context_length(config)
    if config.vllm.url:
        return VllmServers(
            config.vllm.url,
            Path(config.vllm.handover or folder),
            eos_ids=eos,
            max_context=room,
            patience=config.vllm.patience,
            siblings=siblings,
            tell=tell,
        )
    slots = max(config.rollout.batch_size, config.eval.batch_size)
    return VllmEngine(
        config.model.path,
        config.vllm,
        dtype=dtype,
        eos_ids=eos,
        batch_size=slots,
        max_context=room,
        seed=config.seed,
    )
