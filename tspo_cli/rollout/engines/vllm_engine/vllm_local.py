"""vLLM in this process: it takes the learner's tensors from memory."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tspo_cli.config.schema import VllmConfig
from tspo_cli.errors import InvalidInputError, TspoError
from tspo_cli.packages import missing
from tspo_cli.rollout.engines.engine_protocol import Completion, GenerationRequest
from tspo_cli.rollout.engines.vllm_engine.adapters import (
    ADAPTER,
    ADAPTER_ID,
    Adapters,
    adapter_options,
    refused_adapters,
)
from tspo_cli.rollout.engines.vllm_engine.cache_use import CacheUse
from tspo_cli.rollout.engines.vllm_engine.vllm_messages import (
    CPU_KV_CACHE_GIB,
    FLOAT32_HEAD,
    LEVEL_2_OF_ADAPTERS,
    LOGPROBS_MODE,
    WORKER_EXTENSION,
    check_length,
    completion,
    cpu_options,
    gpu_options,
    memory_options,
    sampling_params,
)
from tspo_cli.variables import number_in

if TYPE_CHECKING:
    import torch

WEIGHTS, CACHE = "weights", "kv_cache"
"""vLLM's tags of what sleeps."""


class VllmEngine:
    """The Engine protocol on a vLLM engine of this process. vLLM's prefix cache keeps the keys and
    values of earlier turns.

    Args:
        model: model directory or hub name, with the weights of version `weight_version`.
        dtype: "float32" or "bfloat16".
        eos_ids: tokens that end a request.
        batch_size: most requests that vLLM decodes at once.
        max_context: most tokens of a session.
        adapters: of the policy, where the engine computes with them; `load_weights` gets them
            alone.
        float32_head: compute logits in float32.

    Raises:
        MissingResourceError: vLLM is not installed here.
        InvalidInputError: the platform does not support an option of `config`.
    """

    def __init__(
        self,
        model: str,
        config: VllmConfig,
        *,
        dtype: str,
        eos_ids: Sequence[int],
        batch_size: int,
        max_context: int,
        seed: int,
        weight_version: int = 0,
        revision: str = "",
        adapters: Adapters | None = None,
        float32_head: bool = False,
    ) -> None:
        self.config, self.eos_ids, self.max_context = config, list(eos_ids), max_context
        self.weight_version, self.owns_weights = weight_version, True
        self.engine, self.params, self.sleep_level = _start(
            model, config, dtype, batch_size, max_context, seed, revision, adapters, float32_head
        )
        self.adapters, self.adapter_request = adapters, adapters and _adapter_request()
        self.engine.set_weight_version(str(weight_version))
        self.requests: dict[int, str] = {}
        self.known: set[int] = set()
        self.finished: list[Completion] = []
        self.request_count = 0
        self.cache_use = CacheUse()
        self.asleep: list[str] = []
        """What sleeps, by vLLM's tags."""

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request. Raises ValueError when the session has one in flight."""
        session = request.session
        if session in self.requests:
            raise ValueError(f"session {session} has a request in flight")
        self._wake(WEIGHTS, CACHE)
        too_long = check_length(
            request, self.max_context, session not in self.known, self.weight_version
        )
        self.known.add(session)
        if too_long is not None:
            self.finished.append(too_long)
            return
        self.request_count += 1
        params = self.params(**sampling_params(request, self.max_context, self.eos_ids))
        name = f"{session}-{self.request_count}"
        self.requests[session] = name
        prompt = {"prompt_token_ids": list(request.token_ids)}
        self.engine.add_request(name, prompt, params, lora_request=self.adapter_request)

    def step(self) -> list[Completion]:
        """Run one scheduler step of vLLM and return the requests that finished."""
        finished, self.finished = self.finished, []
        if not self.engine.has_unfinished_requests():
            return finished
        for output in self.engine.step():
            session = int(output.request_id.rpartition("-")[0])
            if output.finished and self.requests.get(session) == output.request_id:
                del self.requests[session]
                finished.append(_completion(session, output.outputs[0]))
        self.cache_use.see_scheduler(self.engine.engine_core.engine_core.scheduler)
        return finished

    def take_load(self) -> dict[str, float]:
        """See `ReportsLoad`. The cache is looked at after every step."""
        return self.cache_use.take()

    def release(self, session: int) -> None:
        """Forget the session and abort its request. Its prefix stays in the cache while there is
        room.
        """
        self.known.discard(session)
        self.finished = [done for done in self.finished if done.session != session]
        name = self.requests.pop(session, None)
        if name is not None:
            self.engine.abort_request([name])

    def load_weights(self, weights: Mapping[str, torch.Tensor] | None, version: int) -> None:
        """Take new weights by parameter name. Running requests continue with them and end as
        `mixed`.

        Raises:
            ValueError: `weights` is None; this engine owns its weights.
            InvalidInputError: vLLM does not take the adapters.
            TspoError: vLLM keeps prefixes that the old weights computed.
        """
        if weights is None:
            raise ValueError("vLLM owns its weights: expected all of them, got None")
        self._wake(WEIGHTS)  # the cache follows when `weights` may be freed
        if self.adapters is None:
            self.engine.collective_rpc("tspo_load_tensors", args=(dict(weights),))
        else:
            self._load_adapters(self.adapters, weights)
        if not self.engine.reset_prefix_cache():
            raise TspoError(
                f"hand-over of step {version}: vLLM did not drop the prefixes of the old weights; "
                "later rollouts would not come from the trained policy"
            )
        self.engine.set_weight_version(str(version))
        self.weight_version = version

    def different_weight(self, weights: Mapping[str, torch.Tensor]) -> str | None:
        """The name of a parameter of a worker whose bits are not those of `weights`."""
        if self.adapters is None:
            found = self.engine.collective_rpc("tspo_different_weight", args=(dict(weights),))
        else:
            config = self.adapters.peft_config
            found = self.engine.collective_rpc(
                "tspo_different_adapter", args=(config, dict(weights))
            )
        return next((name for name in found if name), None)

    def sleep(self) -> None:
        """Free memory as vllm.sleep says: 0 nothing, 1 the cache, and the weights to CPU memory, 2
        cache and weights.
        """
        if self.sleep_level and not self.asleep:
            self.engine.sleep(self.sleep_level)
            self.asleep = [WEIGHTS, CACHE]

    def _load_adapters(self, adapters: Adapters, tensors: Mapping[str, torch.Tensor]) -> None:
        arguments = (adapters.peft_config, dict(tensors))
        try:
            self.engine.collective_rpc("tspo_load_adapters", args=arguments)
        except ValueError as error:
            raise refused_adapters(str(error)) from error

    def _wake(self, *tags: str) -> None:
        sleeping = [tag for tag in tags if tag in self.asleep]
        if sleeping:
            self.engine.wake_up(tags=sleeping)
            self.asleep = [tag for tag in self.asleep if tag not in sleeping]

    def close(self) -> None:
        """Shut vLLM down. The process group of the training stays."""
        with _training_group_kept():
            self.engine.engine_core.shutdown()


@contextmanager
def _training_group_kept() -> Iterator[None]:
    """Within it, vLLM's shutdown does not destroy the default process group, which is not its
    own: it joined the one of the training.
    """
    from torch import distributed

    destroy = distributed.destroy_process_group

    def destroy_others(group: Any = None) -> None:
        if group not in (None, distributed.group.WORLD):
            destroy(group)

    distributed.destroy_process_group = destroy_others
    try:
        yield
    finally:
        distributed.destroy_process_group = destroy


def _adapter_request() -> Any:
    """The adapters that a request is computed with. They have been loaded: no file is read."""
    from vllm.lora.request import LoRARequest

    return LoRARequest(ADAPTER, ADAPTER_ID, "in memory")


def _completion(session: int, output: Any) -> Completion:
    ids = list(output.token_ids)
    logprobs = [row[token].logprob for row, token in zip(output.logprobs or [], ids, strict=True)]
    versions = [span.version for span in output.weight_versions or []]
    reasons = output.finish_reason, output.stop_reason
    return completion(session, ids, logprobs, *reasons, versions)


def _start(
    model: str,
    config: VllmConfig,
    dtype: str,
    batch_size: int,
    max_context: int,
    seed: int,
    revision: str,
    adapters: Adapters | None,
    float32_head: bool,
) -> tuple[Any, Any, int]:
    """The engine, vLLM's class of sampling parameters, and the level at which the engine sleeps."""
    # In one process, tensors can be handed over and the start takes seconds, not half a minute.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
    try:
        from vllm import EngineArgs, LLMEngine, SamplingParams
        from vllm.platforms import current_platform
    except ImportError as error:
        raise missing({"vllm": 'rollout.engine = "vllm"'}, str(error)) from None
    _guard_llvmlite()
    cpu = current_platform.is_cpu()
    level = int(not cpu) if config.sleep == "auto" else config.sleep
    if cpu and level:
        raise InvalidInputError("vllm.sleep: vLLM cannot sleep on a CPU; set it to 0")
    several = number_in("WORLD_SIZE", 1) > 1
    if adapters and level == 2:
        raise InvalidInputError(LEVEL_2_OF_ADAPTERS)
    options = cpu_options(max_context) if cpu else gpu_options(batch_size, eager=config.eager)
    options |= memory_options(
        config.memory, config.kv_cache_gib or (CPU_KV_CACHE_GIB if cpu else 0)
    )
    if adapters:
        tokens = max(max_context, batch_size)
        options |= adapter_options(adapters.rank, adapters.layers, tokens, cpu=cpu)
    if float32_head:
        options["hf_overrides"] = FLOAT32_HEAD
    arguments = EngineArgs(
        model=model,
        revision=revision or None,
        tokenizer_revision=revision or None,
        dtype=dtype,
        seed=seed,
        max_model_len=max_context,
        max_num_seqs=batch_size,
        tensor_parallel_size=config.tensor_parallel,
        distributed_executor_backend="external_launcher" if several else "uni",
        enable_prefix_caching=True,
        enable_sleep_mode=level > 0,
        logprobs_mode=LOGPROBS_MODE,
        worker_extension_cls=WORKER_EXTENSION,
        generation_config="vllm",
        disable_log_stats=True,
        **options,
    )
    try:
        return LLMEngine.from_engine_args(arguments), SamplingParams, level
    except ValueError as error:  # a context that it does not take, an architecture it lacks
        if adapters and "LoRA" in str(error):
            raise refused_adapters(_reason(error)) from error
        raise InvalidInputError(
            f'{model}: vLLM does not start: {_reason(error)}; use rollout.engine = "transformers" '
            "if it cannot be helped"
        ) from error


def _reason(error: ValueError) -> str:
    """What vLLM says, in one line. Its configuration is checked by pydantic, whose first line names
    only the class.
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    line = next((line for line in lines if "error, " in line), lines[0])
    _, found, rest = line.partition("error, ")
    return (rest if found else line).partition(" [type=")[0].strip()


def _guard_llvmlite() -> None:
    """Without Triton, vLLM reads the `__dict__` of every object in every module. The library object
    of llvmlite (loaded with numba) returns a C function for any attribute name, and vLLM fails on
    that. This makes it raise AttributeError for such names.
    """
    ffi: Any = sys.modules.get("llvmlite.binding.ffi")
    if ffi is None:
        return
    symbol = ffi._lib_wrapper.__getattr__

    def symbols_only(self: Any, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return symbol(self, name)

    ffi._lib_wrapper.__getattr__ = symbols_only
