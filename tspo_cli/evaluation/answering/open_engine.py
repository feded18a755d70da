"""The engine of an evaluation: a model in this process (transformers or vLLM), or an
OpenAI-compatible endpoint.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tspo_cli.arithmetic import use_portable_kernels
from tspo_cli.config.context import context_length
from tspo_cli.config.schema import Config, RolloutConfig
from tspo_cli.console import say
from tspo_cli.errors import InvalidInputError, UsageError
from tspo_cli.models.chat_template import stop_ids, template_notes
from tspo_cli.models.checks.length_limits import check_length, check_vllm_length, positions
from tspo_cli.models.checks.model_digest import model_digest, steady_model
from tspo_cli.models.checks.vocabulary import check_vocabulary
from tspo_cli.models.eos import saved_eos_ids
from tspo_cli.models.load_model import CONFIG, TOKENIZER, load_tokenizer, model_config
from tspo_cli.models.tokenizer_protocol import Tokenizer
from tspo_cli.rollout.engines.endpoint.word_tokenizer import WordTokenizer
from tspo_cli.rollout.engines.engine_protocol import Engine
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.variables import default_threads

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True, slots=True)
class OpenedEngine:
    """An engine with its tokenizer and the names that a signature records.

    `fresh` returns the engine without any cache of earlier requests. `independent`: an answer does
    not depend on the other requests of its batch, so that single questions can be repeated. `model`
    is a digest or a name. `kind` is transformers-float32, vllm-bfloat16, ..., completions or chat.
    `positions`: the longest sequence that the model was made for, in tokens; 0: not known. `exact`:
    turns are those of a policy in this process: token ids that end where its turns end.
    """

    tokenizer: Tokenizer
    fresh: Callable[[], Engine]
    independent: bool
    model: str
    kind: str
    positions: int = 0
    exact: bool = True

    @property
    def remote(self) -> bool:
        """True for a server, which may refuse a request."""
        return self.kind in ("completions", "chat")


def open_engine(
    config: Config,
    tools: Sequence[Mapping[str, Any]] = (),
    protocol: type[SearchProtocol] = SearchProtocol,
) -> OpenedEngine:
    """Open the engine for model.path: the server at endpoint.url if it is set, else rollout.engine
    in this process. `tools` are the functions that a chat model may call. `protocol` checks the
    tokenizer and its chat template before weights are loaded.

    Raises:
        RemoteServiceError: the server refuses requests with `tools`.
        MissingResourceError, InvalidInputError: the model cannot be loaded, or was replaced
            meanwhile.
        UsageError: vllm.url is set, which is for training, or model.revision for a served model.
    """
    if config.endpoint.url and config.model.revision:
        raise UsageError(
            "model.revision is for a hub model that runs here; the server of endpoint.url decides "
            "which revision it serves"
        )
    if config.endpoint.url:
        return _remote(config, tools, protocol)
    is_vllm = config.rollout.engine == "vllm"
    open_local = _vllm if is_vllm else _transformers
    # A second vLLM would not fit beside the first one.
    looks = 1 if is_vllm else 3
    return steady_model(config.model.path, lambda: open_local(config, protocol), looks)


def _remote(
    config: Config, tools: Sequence[Mapping[str, Any]], protocol: type[SearchProtocol]
) -> OpenedEngine:
    from tspo_cli.rollout.engines.endpoint.endpoint_client import EndpointClient
    from tspo_cli.rollout.engines.endpoint.endpoint_engine import EndpointEngine, EndpointOptions
    from tspo_cli.rollout.engines.endpoint.request_fields import RequestFields
    from tspo_cli.rollout.engines.endpoint.turn_ends import turn_ends

    endpoint, model = config.endpoint, config.model.path
    tokenizer_path = endpoint.tokenizer or (model if _is_model(Path(model)) else "")
    tokenizer: Tokenizer = load_tokenizer(tokenizer_path) if tokenizer_path else WordTokenizer()
    if endpoint.api == "completions":
        protocol.from_config(tokenizer, config.rollout)
    client = EndpointClient(
        endpoint.url,
        key_env=endpoint.key_env,
        timeout=endpoint.timeout,
        retries=endpoint.retries,
        fields=RequestFields("endpoint", endpoint.rename.model_dump(), tuple(endpoint.drop)),
    )
    # vLLM returns the sampled ids, and on request the text with its special tokens: a tokenizer may
    # have the protocol's tags as special tokens.
    is_vllm = client.is_vllm()
    exact = {"skip_special_tokens": False, "return_token_ids": True} if is_vllm else {}
    extra = _extra(endpoint.extra)
    known = tokenizer if tokenizer_path else None
    ends = turn_ends(_served(config), known, takes_ids=is_vllm, extra=extra)
    for note in ends.notes:
        say(note)
    options = EndpointOptions(
        model=endpoint.model or model,
        api=endpoint.api,
        send_ids=bool(tokenizer_path) and endpoint.send == "ids",
        system=config.rollout.system,
        concurrency=endpoint.concurrency,
        extra=exact | ends.fields | _template_kwargs(config) | extra,
        stop=ends.texts,
        tools=tools if endpoint.api == "chat" else (),
    )
    engine = EndpointEngine(client, tokenizer, options)
    if options.tools:
        engine.check_tools()
    return OpenedEngine(
        *(tokenizer, lambda: engine, True, endpoint.model or model, endpoint.api),
        exact=options.send_ids and options.api == "completions" and "stop" not in endpoint.drop,
    )


def _is_model(folder: Path) -> bool:
    """True for a model directory, False for another folder with the name of a hosted model."""
    return any((folder / name).exists() for name in (CONFIG, TOKENIZER, "vocab.json"))


def _served(config: Config) -> RolloutConfig:
    """The rollout options; a chat API applies the template itself, and ends the turns that it
    opens.
    """
    chat = config.endpoint.api == "chat"
    return config.rollout.model_copy(update={"chat_template": "never"} if chat else {})


def _template_kwargs(config: Config) -> dict[str, Any]:
    """The field in which servers take arguments of their chat template; absent without any."""
    kwargs = config.rollout.template_kwargs
    return {"chat_template_kwargs": kwargs} if kwargs and config.endpoint.api == "chat" else {}


def _extra(text: str) -> dict[str, Any]:
    try:
        fields = json.loads(text or "{}")
    except json.JSONDecodeError:
        fields = None
    if not isinstance(fields, dict):
        raise InvalidInputError(f"endpoint.extra: expected a JSON object, got {text!r}")
    return fields


def _transformers(config: Config, protocol: type[SearchProtocol]) -> OpenedEngine:
    from tspo_cli.models.checks.probe import own_probe, small_window
    from tspo_cli.models.dtype import use_float32_head
    from tspo_cli.models.load_model import load_model
    from tspo_cli.rollout.engines.hf.engine_check import check_engine
    from tspo_cli.rollout.engines.hf.hf_engine import TransformersEngine

    tokenizer, device, dtype = _prepare(config, protocol)
    policy = load_model(config.model.path, dtype, device, config.model.revision)
    if config.model.float32_head:
        use_float32_head(policy)
    check_length(config.model.path, policy, context_length(config))
    with small_window(policy):
        check_engine(policy, tokenizer, own_probe(policy, context_length(config)))
    engine = TransformersEngine(
        policy,
        tokenizer,
        batch_size=config.eval.batch_size,
        max_context=context_length(config),
        stop_ids=stop_ids(tokenizer, config.rollout),
    )
    return OpenedEngine(
        tokenizer,
        engine.fresh,
        False,
        model_digest(config.model.path, config.model.revision),
        f"transformers-{_name(dtype)}",
        positions(policy),
    )


def _vllm(config: Config, protocol: type[SearchProtocol]) -> OpenedEngine:
    from tspo_cli.rollout.engines.vllm_engine.vllm_local import VllmEngine

    if config.vllm.url:
        raise UsageError(
            "vllm.url is for training; name a server with --endpoint URL, such as http://127.0.0.1:8100/v1"
        )
    path, revision = config.model.path, config.model.revision
    check_vllm_length(path, model_config(path, revision), context_length(config))
    tokenizer, _, dtype = _prepare(config, protocol)
    eos = saved_eos_ids(path, tokenizer, revision)
    engine = VllmEngine(
        path,
        config.vllm,
        dtype=_name(dtype),
        eos_ids=sorted({*eos, *stop_ids(tokenizer, config.rollout)}),
        batch_size=config.eval.batch_size,
        max_context=context_length(config),
        seed=config.seed,
        revision=revision,
        float32_head=config.model.float32_head,
    )

    def fresh() -> Engine:
        # Cached prefixes change the last bits of later results.
        engine.engine.reset_prefix_cache()
        return engine

    digest = model_digest(path, revision)
    return OpenedEngine(tokenizer, fresh, False, digest, f"vllm-{_name(dtype)}")


def _prepare(
    config: Config, protocol: type[SearchProtocol]
) -> tuple[PreTrainedTokenizerFast, str, torch.dtype]:
    """Tokenizer, device and dtype of the weights. Also sets the number of threads."""
    import torch

    from tspo_cli.models.dtype import torch_dtype

    use_portable_kernels(config.train.portable)
    torch.set_num_threads(config.train.threads or default_threads())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    path, revision = config.model.path, config.model.revision
    tokenizer = load_tokenizer(path, revision)
    rows = model_config(path, revision).get_text_config().vocab_size
    ends = saved_eos_ids(path, tokenizer, revision)
    check_vocabulary(path, tokenizer, rows, ends)
    protocol.from_config(tokenizer, config.rollout)  # a template that refuses the messages
    for note in template_notes(tokenizer, config.rollout, ends):
        say(note)
    return tokenizer, device, torch_dtype(config.model.dtype, device)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
