"""Memory that the rollout engine needs in a training process, in GiB."""

from __future__ import annotations

from tspo_cli.config.context import context_length, sequences_at_once
from tspo_cli.rollout.engines.vllm_engine.vllm_messages import CPU_KV_CACHE_GIB, prefill_tokens
from tspo_cli.training.core.engine_weights import engine_copies_weights
from tspo_cli.training.planning.memory import GIB, PlannedRun, float32_head
from tspo_cli.training.planning.model_shape import ModelShape

# vLLM on a GPU, stated: buffers of the attention kernels and the sampler's small tensors; CUDA
# graphs of its default batch sizes. Profiles of vLLM print 0.3 to 0.5 and 0.5 to 1.5.
KERNEL_BUFFERS_GIB, CUDA_GRAPHS_GIB = 0.4, 1.0
# Float32 tables [sequences, vocabulary] at once while it samples: logits, log-probabilities, noise
# and one temporary.
SAMPLER_TABLES = 4


def has_engine(run: PlannedRun) -> bool:
    """True where the process has an engine that needs memory. SFT evaluates with one, which may
    have weights of its own.
    """
    if run.is_vllm:
        return not run.has_servers
    return bool(run.rollouts) or engine_weights(run) > 0


def engine_weights(run: PlannedRun) -> float:
    """GiB of the engine's own copy of the weights."""
    config, size = run.config, run.bytes_per_number
    stage, bfloat16 = config.deepspeed.zero_stage, run.is_bfloat16
    if not engine_copies_weights(config, stage, bfloat16=bfloat16):
        copies = 0.0
    else:
        copies = 1 / (config.vllm.tensor_parallel if run.is_vllm else 1)
    decodes = bool(run.rollouts or run.config.eval.data)
    if decodes and run.is_large_on_cpu and not run.is_vllm and _packs_weights(run):
        copies += 1  # the packed copy that the engine decodes with
    return copies * run.parameters * size / GIB


def _packs_weights(run: PlannedRun) -> bool:
    """True where the engine arranges the weights for this CPU: it multiplies their type."""
    from tspo_cli.models.dtype import has_bfloat16

    return not run.is_bfloat16 or has_bfloat16()


def kv_cache(run: PlannedRun) -> float:
    """GiB of keys and values. vLLM takes vllm.kv_cache_gib or, where that is 0, 1 GiB on a CPU and
    what vllm.memory leaves on a GPU. Where the GPU's size is not known, it is what all sequences in
    flight fill. Our own engine has room for all that it may hold, and evaluates SFT in memory that
    the update has freed.
    """
    vllm = run.config.vllm
    if run.is_vllm and vllm.kv_cache_gib:
        return vllm.kv_cache_gib
    if run.is_vllm and not run.gpus:
        return CPU_KV_CACHE_GIB
    if run.is_vllm and run.gpu_gib:
        taken = engine_weights(run) + cuda_graphs(run) + workspace(run)
        return max(0.0, vllm.memory * run.gpu_gib - taken)
    if run.is_vllm or not run.rollouts:
        return full_cache(run)
    held = sequences_at_once(run.config)
    return kv_cache_bytes(run.shape, run.context, held, run.bytes_per_number) / GIB


def full_cache(run: PlannedRun) -> float:
    """GiB of keys and values of all sequences in flight."""
    in_flight = min(run.config.rollout.batch_size, run.rollouts)
    return kv_cache_bytes(run.shape, run.context, in_flight, run.bytes_per_number) / GIB


def cache_problem(run: PlannedRun) -> str | None:
    """Why vLLM would not start in this process: its cache has no room for one sequence."""
    if not run.is_vllm or run.has_servers:
        return None
    vllm, tokens = run.config.vllm, context_length(run.config)
    needed = kv_cache_bytes(run.shape, tokens, 1, run.bytes_per_number) / GIB
    if kv_cache(run) >= needed:
        return None
    room = f"one sequence of {tokens:,} tokens, which takes {needed:.2f} GiB"
    if vllm.kv_cache_gib:
        hold = "holds" if vllm.kv_cache_gib == 1 else "hold"
        return f"vllm.kv_cache_gib: {vllm.kv_cache_gib:g} GiB {hold} less than {room}; raise it"
    if not run.gpus:
        return f"vllm.kv_cache_gib: 0 means {CPU_KV_CACHE_GIB:g} GiB, less than {room}; raise it"
    taken = engine_weights(run) + cuda_graphs(run) + workspace(run)
    return (
        f"vllm.memory: {vllm.memory:g} of {run.gpu_gib:.1f} GiB, of which vLLM needs {taken:.1f} "
        f"beside its cache, leaves no room for {room}; raise it, or set vllm.kv_cache_gib"
    )


def kv_cache_bytes(shape: ModelShape, context: int, sequences: int, bytes_each: int) -> int:
    """Keys and values: 2 x layers x key-value heads x head size x tokens x sequences in flight."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * context * sequences * bytes_each


def sleep_level(run: PlannedRun) -> int:
    """vLLM's sleep level while the learner works, see vllm.sleep."""
    level = run.config.vllm.sleep
    if not (run.gpus and run.is_vllm):
        return 0
    return int(not run.config.rollout.one_step_off) if level == "auto" else level


def cuda_graphs(run: PlannedRun) -> float:
    """GiB of vLLM's CUDA graphs, which sleep does not free."""
    return CUDA_GRAPHS_GIB if run.gpus and run.is_vllm and not run.config.vllm.eager else 0.0


def workspace(run: PlannedRun, sequences: int = 0) -> float:
    """GiB that vLLM computes with on a GPU: activations of one prefill and the sampler's tables.

    It is for `sequences` requests at once (0: those of an engine in the process).

    A block holds its input, the residual, queries, keys and values, gate, up and their product.
    """
    if not (run.gpus and run.is_vllm):
        return 0.0
    shape = run.shape
    slots = sequences or max(run.config.rollout.batch_size, run.config.eval.batch_size)
    width = (
        4 * shape.hidden
        + (2 * shape.heads + 2 * shape.kv_heads) * shape.head_dim
        + 3 * shape.intermediate
    )
    prefill = prefill_tokens(slots) * width * run.bytes_per_number
    tables = SAMPLER_TABLES * 4 * slots * shape.vocabulary
    return KERNEL_BUFFERS_GIB + (prefill + tables) / GIB + float32_head(run)
