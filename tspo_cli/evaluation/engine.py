"""The engine that answers: a model directory in this process, or a model behind an OpenAI-compatible endpoint."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tspo_cli.config.schema import Config
from tspo_cli.errors import InvalidInputError
from tspo_cli.evaluation.signature import model_digest
from tspo_cli.models.load import load_tokenizer
from tspo_cli.rollout.agent import context_length
from tspo_cli.rollout.engines.base import Engine, TokenizerLike
from tspo_cli.rollout.engines.words import WordTokenizer


@dataclass(frozen=True, slots=True)
class Opened:
    """`fresh` gives an engine that remembers nothing of earlier requests.

    `independent`: what a request gives does not depend on the others beside it, so that items may be repeated one by
    one. `model` is a digest or a name; `kind` is transformers, completions or chat.
    """

    tokenizer: TokenizerLike
    fresh: Callable[[], Engine]
    independent: bool
    model: str
    kind: str


def open_engine(config: Config) -> Opened:
    """The engine for model.path.

    Raises:
        MissingResourceError, InvalidInputError: the model cannot be had.
    """
    return _remote(config) if config.endpoint.url else _local(config)


def _remote(config: Config) -> Opened:
    from tspo_cli.rollout.engines.endpoint import EndpointEngine
    from tspo_cli.rollout.engines.endpoint_client import EndpointClient

    endpoint, model = config.endpoint, config.model.path
    known = endpoint.tokenizer or (model if Path(model).is_dir() else "")
    tokenizer = load_tokenizer(known) if known else WordTokenizer()
    client = EndpointClient(endpoint.url, key_env=endpoint.key_env, timeout=endpoint.timeout, retries=endpoint.retries)
    engine = EndpointEngine(
        client,
        endpoint.model or model,
        tokenizer,
        api=endpoint.api,
        send_ids=bool(known) and endpoint.send == "ids",
        system=config.rollout.system,
        concurrency=endpoint.concurrency,
        extra=_extra(endpoint.extra),
    )
    return Opened(tokenizer, lambda: engine, True, endpoint.model or model, endpoint.api)


def _extra(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text or "{}")
    except json.JSONDecodeError:
        fields = None
    if not isinstance(fields, dict):
        raise InvalidInputError(f"endpoint.extra: expected a JSON object, got {text!r}")
    return fields


def _local(config: Config) -> Opened:
    import torch

    from tspo_cli.models.dtype import torch_dtype
    from tspo_cli.models.load import load_model
    from tspo_cli.rollout.engines.transformers import TransformersEngine

    torch.set_num_threads(config.train.threads or int(os.environ.get("OMP_NUM_THREADS", "1")))
    tokenizer = load_tokenizer(config.model.path)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    policy = load_model(config.model.path, torch_dtype(config.model.dtype, device), device)
    engine = TransformersEngine(
        policy, tokenizer, batch_size=config.eval.batch_size, max_context=context_length(config)
    )
    return Opened(tokenizer, engine.fresh, False, model_digest(config.model.path), "transformers")
