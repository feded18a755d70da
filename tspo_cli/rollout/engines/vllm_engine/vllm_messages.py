"""Requests to vLLM and completions from it, for both kinds of engine. Does not import vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tspo_cli.config.schema import Config
from tspo_cli.console import counted
from tspo_cli.errors import InvalidInputError, RemoteServiceError
from tspo_cli.rollout.engines.engine_protocol import Completion, FinishReason, GenerationRequest
from tspo_cli.text.whole_numbers import whole_number

WORKER_EXTENSION = "tspo_cli.rollout.engines.vllm_engine.vllm_worker.ReloadExtension"
GUARD = "tspo_cli.rollout.engines.vllm_engine.guard.Guard"
LOGPROBS_MODE = "processed_logprobs"  # after the temperature, as `Completion` documents
FLOAT32_HEAD = {"head_dtype": "float32"}
"""vLLM's override of a model's configuration that makes it compute logits in float32."""
PREFILL_TOKENS = 8192
"""Tokens that vLLM computes at once at most. Its own default for an engine in the process is 2,048,
which throttles the prefill of passages.
"""
LEVEL_2_OF_ADAPTERS = "vllm.sleep: level 2 drops the weights that adapters lie beside; set it to 1"
SMALLEST_SHARE = 0.01
CPU_KV_CACHE_GIB = 1.0


def cpu_options(max_context: int) -> dict[str, Any]:
    """Arguments of vLLM's engine on a CPU.

    Chunked prefill is off: vLLM undoes the random draw of an unfinished prefill, which a seeded CPU
    generator does not support. The prefix cache keeps whole blocks. vLLM's default of 128 tokens is
    more than most turns have, so that a turn would be computed again and again.
    """
    return {
        "enable_chunked_prefill": False,
        "max_num_batched_tokens": max(PREFILL_TOKENS, max_context),
        "block_size": 32,
        "enforce_eager": True,
    }


def gpu_options(batch_size: int, *, eager: bool) -> dict[str, Any]:
    """Arguments of vLLM's engine on a GPU that decodes `batch_size` requests at once."""
    return {
        "max_num_batched_tokens": prefill_tokens(batch_size),
        "enforce_eager": eager,
    }


def memory_options(share: float, kv_cache_gib: float) -> dict[str, Any]:
    """Arguments of vLLM's engine for a KV cache of `kv_cache_gib`, or (0) of what `share` of the
    GPU leaves.

    vLLM does not start where less than its share is free, also where the cache has a size and the
    share means nothing. Beside a learner and its optimiser less may be free than vLLM needs awake.
    """
    if not kv_cache_gib:
        return {"gpu_memory_utilization": share}
    return {
        "gpu_memory_utilization": SMALLEST_SHARE,
        "kv_cache_memory_bytes": int(kv_cache_gib * 2**30),
    }


def prefill_tokens(batch_size: int) -> int:
    """Tokens that an engine on a GPU computes at once at most; each request has at least one."""
    return max(PREFILL_TOKENS, batch_size)


def transfer_in_words(config: Config, *, gpu: bool) -> str:
    """How weights will reach servers, and why as files, as far as the experiment and whether the
    learner has a GPU tell; empty without servers.
    """
    if not config.has_vllm_servers:
        return ""
    wish = config.vllm.transfer
    adapters = config.lora.as_adapters(bfloat16=config.model.dtype == "bfloat16" or gpu)
    if wish == "nccl":
        how = "over NCCL"
    elif wish == "files":
        how = "as files"
    elif adapters:
        how = "as files, as adapters go"
    elif not gpu:
        how = "as files, as no GPU is here; over NCCL where there is one"
    else:
        how = "over NCCL, or as files where a server cannot (`tspo engine --transfer nccl` can)"
    return f"weights to vLLM servers: {how} (vllm.transfer = {wish})"


def sampling_params(
    request: GenerationRequest, max_context: int, eos_ids: Sequence[int]
) -> dict[str, Any]:
    """Keyword arguments of vLLM's SamplingParams. The output keeps stop strings and special tokens.

    Sets every field that a model's generation_config.json could change.
    """
    sampling = request.sampling
    return {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "max_tokens": min(sampling.max_new_tokens, max_context - len(request.token_ids)),
        "stop": list(sampling.stop),
        "stop_token_ids": list(eos_ids),
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
        "spaces_between_special_tokens": False,
        "seed": request.seed,
        "logprobs": 0,
    }


def check_length(
    request: GenerationRequest, max_context: int, first: bool, version: int
) -> Completion | None:
    """None if the context has room for another token. A later turn without room gets the completion
    returned here: "length" and no tokens.

    `first`: it is the first request of its session. `version` is that of the engine's weights.

    Raises:
        InvalidInputError: an empty prompt, or a first prompt longer than `max_context`.
    """
    size = len(request.token_ids)
    if size == 0:
        raise InvalidInputError(f"session {request.session}: expected at least one prompt token")
    if size > max_context and first:
        raise InvalidInputError(
            f"session {request.session}: the prompt has {size} tokens, expected at most "
            f"{max_context}; shorten it or raise model.max_context"
        )
    return Completion(request.session, (), (), "length", version) if size >= max_context else None


def completion(
    session: int,
    token_ids: Sequence[int],
    logprobs: Sequence[float],
    finish_reason: str | None,
    stop_reason: int | str | None,
    versions: Sequence[str],
) -> Completion:
    """A Completion from the fields of vLLM's output. `versions` are the weight versions of its
    spans of tokens, in order. A version that is not a number becomes -1.

    Raises:
        RemoteServiceError: vLLM aborted the request.
    """
    reasons: dict[tuple[str | None, bool], FinishReason] = {
        ("stop", True): "stop",
        ("stop", False): "eos",
        ("length", False): "length",
    }
    reason = reasons.get((finish_reason, isinstance(stop_reason, str)))
    if reason is None or len(token_ids) != len(logprobs):
        raise RemoteServiceError(
            f"vLLM ended request {session} with {finish_reason!r} "
            f"({counted(len(token_ids), 'token')}, {counted(len(logprobs), 'log-prob')})"
        )
    version = whole_number(versions[-1]) if versions else None
    return Completion(
        session,
        tuple(token_ids),
        tuple(logprobs),
        reason,
        -1 if version is None else version,
        len(set(versions)) > 1,
    )
