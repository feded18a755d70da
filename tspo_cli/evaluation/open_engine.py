"""The engine that answers: a model in this process (transformers or vLLM), or one behind an
OpenAI-compatible endpoint.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tspo_cli.config.context import context_length
from tspo_cli.config.schema import Config
from tspo_cli.errors import InvalidInputError, UsageError
from tspo_cli.evaluation.signature import model_digest
from tspo_cli.models.load_model import load_tokenizer
from tspo_cli.rollout.engines.endpoint.word_tokenizer import WordTokenizer
from tspo_cli.rollout.engines.engine_protocol import Engine, TokenizerLike

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Opened:
    """`fresh` gives an engine that remembers nothing of earlier requests.

    `independent`: what a request gives does not depend on the others beside it, so that items may
    be repeated one by one. `model` is a digest or a name; `kind` is transformers-float32,
    vllm-bfloat16, ..., completions or chat.
    """

    tokenizer: TokenizerLike
    fresh: Callable[[], Engine]
    independent: bool
    model: str
    kind: str


def open_engine(config: Config, tools: Sequence[Mapping[str, Any]] = ()) -> Opened:
    """The engine for model.path: behind endpoint.url where it is set, else rollout.engine in this
    process. `tools` are what a chat model may call.

    Raises:
        MissingResourceError, InvalidInputError: the model cannot be had.
        UsageError: vllm.url is set, which is for training.
    """
    if config.endpoint.url:
        return _remote(config, tools)
    return _vllm(config) if config.rollout.engine == "vllm" else _transformers(config)


def _remote(config: Config, tools: Sequence[Mapping[str, Any]]) -> Opened:
    from tspo_cli.rollout.engines.endpoint.endpoint_client import EndpointClient
    from tspo_cli.rollout.engines.endpoint.endpoint_engine import EndpointEngine

    endpoint, model = config.endpoint, config.model.path
    known = endpoint.tokenizer or (model if Path(model).is_dir() else "")
    tokenizer = load_tokenizer(known) if known else WordTokenizer()
    client = EndpointClient(
        endpoint.url, key_env=endpoint.key_env, timeout=endpoint.timeout, retries=endpoint.retries
    )
    # Sampled ids instead of texts, and texts with the tags that a tokenizer may have as special
    # tokens.
    exact = {"skip_special_tokens": False, "return_token_ids": True} if client.is_vllm() else {}
    engine = EndpointEngine(
        client,
        endpoint.model or model,
        tokenizer,
        api=endpoint.api,
        send_ids=bool(known) and endpoint.send == "ids",
        system=config.rollout.system,
        concurrency=endpoint.concurrency,
        extra=exact | _extra(endpoint.extra),
        tools=tools if endpoint.api == "chat" else (),
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


def _transformers(config: Config) -> Opened:
    from tspo_cli.models.load_model import load_model
    from tspo_cli.rollout.engines.hf.hf_engine import TransformersEngine

    tokenizer, device, dtype = _prepare(config)
    policy = load_model(config.model.path, dtype, device)
    engine = TransformersEngine(
        policy, tokenizer, batch_size=config.eval.batch_size, max_context=context_length(config)
    )
    return Opened(
        tokenizer,
        engine.fresh,
        False,
        model_digest(config.model.path),
        f"transformers-{_name(dtype)}",
    )


def _vllm(config: Config) -> Opened:
    from tspo_cli.models.end_of_sequence import eos_ids_of_path
    from tspo_cli.rollout.engines.vllm_engine.vllm_local import VllmEngine

    if config.vllm.url:
        raise UsageError(
            "vllm.url is for training; name a server with --endpoint URL, such as http://127.0.0.1:8100/v1"
        )
    tokenizer, _, dtype = _prepare(config)
    engine = VllmEngine(
        config.model.path,
        config.vllm,
        dtype=_name(dtype),
        eos_ids=eos_ids_of_path(config.model.path, tokenizer),
        batch_size=config.eval.batch_size,
        max_context=context_length(config),
        seed=config.seed,
    )

    def fresh() -> Engine:
        # Which prefixes are cached changes the last bits of what follows.
        engine.engine.reset_prefix_cache()
        return engine

    return Opened(tokenizer, fresh, False, model_digest(config.model.path), f"vllm-{_name(dtype)}")


def _prepare(config: Config) -> tuple[TokenizerLike, str, torch.dtype]:
    """Tokenizer, device and type of the weights; threads are set."""
    import torch

    from tspo_cli.models.dtype import torch_dtype

    torch.set_num_threads(config.train.threads or int(os.environ.get("OMP_NUM_THREADS", "1")))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return load_tokenizer(config.model.path), device, torch_dtype(config.model.dtype, device)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
