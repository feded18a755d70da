"""The policy that training starts from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tspo_cli.config.context import context_length
from tspo_cli.config.schema import Config
from tspo_cli.console import counted
from tspo_cli.data.world.generate import load_world
from tspo_cli.errors import InvalidInputError
from tspo_cli.models.checks.length_limits import check_length, check_vllm_length
from tspo_cli.models.checks.vocabulary import check_vocabulary
from tspo_cli.models.dtype import torch_dtype, use_float32_head
from tspo_cli.models.eos import eos_ids
from tspo_cli.models.load_model import decoder_layers, load_model, load_tokenizer
from tspo_cli.models.tiny import tiny_model
from tspo_cli.models.tokenizer import tiny_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def starting_policy(config: Config, device: str) -> tuple[PreTrainedTokenizerFast, Any]:
    """Tokenizer and model: those of config.model.path, or a new tiny policy with the vocabulary of
    the world (data.world). Its first model.frozen_layers layers have no gradients.

    Raises:
        MissingResourceError: no such model directory, or it has no tokenizer or no weights.
        InvalidInputError: the files do not fit together, see `load_model` and `check_vocabulary`,
            or model.frozen_layers leaves no layer to train.
    """
    tokenizer, model = _opened_policy(config, device)
    if config.model.frozen_layers:
        _freeze(model, config.model.frozen_layers)
    return tokenizer, model


def _freeze(model: Any, count: int) -> None:
    """Train neither the embeddings nor the first `count` decoder layers."""
    layers = decoder_layers(model)
    if count >= len(layers):
        raise InvalidInputError(
            f"model.frozen_layers: {count} leaves nothing to train, the model has "
            f"{counted(len(layers), 'layer')}; set at most {len(layers) - 1}"
        )
    for part in (model.get_input_embeddings(), *layers[:count]):
        part.requires_grad_(False)


def _opened_policy(config: Config, device: str) -> tuple[PreTrainedTokenizerFast, Any]:
    path, revision = config.model.path, config.model.revision
    if path:
        tokenizer = load_tokenizer(path, revision)
        model: Any = load_model(path, torch_dtype(config.model.dtype, device), device, revision)
        if config.model.float32_head:
            use_float32_head(model)
        ends = eos_ids(model.config, model.generation_config)
        check_vocabulary(path, tokenizer, model.get_input_embeddings().num_embeddings, ends)
        check_length(path, model, context_length(config))
        if config.rollout.engine == "vllm" and not config.vllm.url:
            check_vllm_length(path, model.config, context_length(config))
        return tokenizer, model
    world = load_world(Path(config.data.world))
    tokenizer = tiny_tokenizer(world.words, world.syllables)
    model = tiny_model(len(tokenizer), config.model, seed=config.seed)
    return tokenizer, model.to(device)
