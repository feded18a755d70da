"""The engine that answers: a model directory in this process, or a model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

from tspo_cli.config.schema import Config
from tspo_cli.evaluation.signature import model_digest
from tspo_cli.rollout.agent import context_length
from tspo_cli.rollout.engines.base import Engine, TokenizerLike


@dataclass(frozen=True, slots=True)
class Opened:
    """`fresh` gives an engine that remembers nothing of earlier requests. `independent`: what a request gives does not
    depend on the others beside it, so that items may be repeated one by one. `model` is a digest or a name."""

    tokenizer: TokenizerLike
    fresh: Callable[[], Engine]
    independent: bool
    model: str


def open_engine(config: Config) -> Opened:
    """The engine for model.path.

    Raises:
        MissingResourceError, InvalidInputError: the model cannot be had.
    """
    return _local(config)


def _local(config: Config) -> Opened:
    import torch

    from tspo_cli.models.dtype import torch_dtype
    from tspo_cli.models.load import load_model, load_tokenizer
    from tspo_cli.rollout.engines.transformers import TransformersEngine

    torch.set_num_threads(config.train.threads or int(os.environ.get("OMP_NUM_THREADS", "1")))
    tokenizer = load_tokenizer(config.model.path)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    policy = load_model(config.model.path, torch_dtype(config.model.dtype, device), device)
    engine = TransformersEngine(
        policy, tokenizer, batch_size=config.eval.batch_size, max_context=context_length(config)
    )
    return Opened(tokenizer, engine.fresh, False, model_digest(config.model.path))
