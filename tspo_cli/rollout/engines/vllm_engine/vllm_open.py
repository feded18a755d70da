"""Opens the vLLM engine of an experiment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tspo_cli.config.context import context_length
from tspo_cli.config.schema import Config
from tspo_cli.errors import MissingResourceError
from tspo_cli.models.chat_template import stop_ids
from tspo_cli.models.eos import saved_eos_ids
from tspo_cli.rollout.engines.vllm_engine.adapters import Adapters
from tspo_cli.rollout.engines.vllm_engine.nccl import GroupMaker, NcclGroups
from tspo_cli.rollout.engines.vllm_engine.vllm_local import VllmEngine
from tspo_cli.rollout.engines.vllm_engine.vllm_servers import ProcessGroup, VllmServers
from tspo_cli.text.access_token import ENGINE_TOKEN, read_token

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def open_vllm(
    config: Config,
    tokenizer: PreTrainedTokenizerFast,
    *,
    dtype: str,
    folder: Path,
    processes: ProcessGroup,
    log: Callable[[str], None],
    adapters: Adapters | None = None,
    device: str = "cpu",
    vocabulary: int,
) -> VllmEngine | VllmServers:
    """The servers of vllm.url if it is set, else an engine in this process with the weights of
    model.path. With `adapters` it computes with these, and gets them alone. `device` is the
    learner's. The model has `vocabulary` tokens.

    Raises:
        MissingResourceError, InvalidInputError, RemoteServiceError: see `VllmEngine` and
        `VllmServers`.
    """
    ends = {*saved_eos_ids(config.model.path, tokenizer, config.model.revision)}
    eos = sorted(ends | {*stop_ids(tokenizer, config.rollout)})
    max_context = context_length(config)
    if config.vllm.url:
        return VllmServers(
            config.vllm.url,
            Path(config.vllm.handover or folder),
            eos_ids=eos,
            max_context=max_context,
            vocabulary=vocabulary,
            patience=config.vllm.patience,
            processes=processes,
            log=log,
            in_memory=not config.vllm.handover,
            token=read_token(ENGINE_TOKEN, config.vllm.token_file),
            adapters=adapters,
            float32_head=config.model.float32_head,
            transfer=config.vllm.transfer,
            groups=_groups(config, device),
        )
    vllm = config.vllm
    if vllm.sleep == "auto" and config.rollout.one_step_off:  # it rolls out while others train
        vllm = vllm.model_copy(update={"sleep": 0})
    slots = max(config.rollout.batch_size, config.eval.batch_size)
    return VllmEngine(
        config.model.path,
        vllm,
        dtype=dtype,
        eos_ids=eos,
        batch_size=slots,
        max_context=max_context,
        seed=config.seed,
        revision=config.model.revision,
        adapters=adapters,
        float32_head=config.model.float32_head,
    )


def refuse_impossible_transfer(config: Config) -> None:
    """Raises MissingResourceError: weights are to go to servers over NCCL, and there is no GPU."""
    import torch

    if config.vllm.transfer == "nccl" and not torch.cuda.is_available():
        raise MissingResourceError(
            "vllm.transfer: nccl needs a GPU for each training process, and there is none here; "
            'set it to "files" or "auto"'
        )


def _groups(config: Config, device: str) -> GroupMaker | None:
    """What meets the servers over NCCL, where this process could send."""
    import torch

    if config.vllm.transfer == "files" or torch.device(device).type != "cuda":
        return None
    return NcclGroups(torch.device(device))
