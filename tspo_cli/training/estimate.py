"""What a training run will need: memory, tokens, time and disk, from its configuration alone.

Parameters and ZeRO's arithmetic are exact; the rest is estimated for sequences as long as the
experiment allows. experiments/benchmarks/plan_memory.py and training_gpu.py measure beside it.
"""

from __future__ import annotations

import json
import math
import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tspo_cli.config.context import context_length
from tspo_cli.config.load_config import read_resolved
from tspo_cli.config.schema import Config
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.models.logprobs import KEPT_LOGITS, LOGITS_AT_ONCE
from tspo_cli.runs import TIMINGS_NAME, read_jsonl

GIB = 2**30
# What a process holds before it has a model: libraries, data and the world in memory (measured,
# torch 2.13 for CPUs), or, on a GPU, the CUDA context and communication buffers (stated).
RUNTIME_GIB = {"cpu": 0.44, "gpu": 1.5}
# The C library keeps freed blocks of less than 32 MiB, in pieces that the next tensor does not fit
# into. Measured for widths of 96 to 512: 1.4 to 1.65 times what is in use.
KEPT_BLOCKS, HEAP = 32 * 2**20, 1.5


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a decoder with grouped-query attention and a gated MLP (Llama, Qwen2 and
    relatives).
    """

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool
    qkv_bias: bool

    def parameters(self) -> int:
        """V h (1 or 2 times) + L (2 h q + 2 h kv + 3 h m + 2 h) + h, with q and kv the widths of
        queries and keys.
        """
        h, q, kv = self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim
        biases = q + 2 * kv if self.qkv_bias else 0
        layer = 2 * h * q + 2 * h * kv + 3 * h * self.intermediate + 2 * h + biases
        return self.vocabulary * h * (1 if self.tied else 2) + self.layers * layer + h

    def adapters(self, rank: int, targets: list[str]) -> int:
        """Numbers in the adapters of `targets`: rank (inputs + outputs) of each layer."""
        h, q, kv, m = (
            self.hidden,
            self.heads * self.head_dim,
            self.kv_heads * self.head_dim,
            self.intermediate,
        )
        sides = {"q_proj": h + q, "k_proj": h + kv, "v_proj": h + kv, "o_proj": q + h}
        sides |= {"gate_proj": h + m, "up_proj": h + m, "down_proj": m + h}
        wanted = sides if targets == ["all-linear"] else targets
        return rank * self.layers * sum(sides.get(name, 0) for name in wanted)


# Shapes of models that recipes name, so that a plan needs no download (their published
# config.json).
KNOWN = {
    "Qwen/Qwen2.5-0.5B": ModelShape(896, 24, 14, 2, 64, 4864, 151936, True, True),
    "Qwen/Qwen2.5-1.5B": ModelShape(1536, 28, 12, 2, 128, 8960, 151936, True, True),
    "Qwen/Qwen2.5-3B": ModelShape(2048, 36, 16, 2, 128, 11008, 151936, True, True),
    "Qwen/Qwen2.5-7B": ModelShape(3584, 28, 28, 4, 128, 18944, 152064, False, True),
}


def estimate_run(config: Config, gpus: int) -> dict[str, Any]:
    """The whole estimate as plain values (GiB, tokens, counts) for `gpus` processes with a GPU each
    (0: CPU).

    Raises:
        MissingResourceError: model.path is not on this machine and no known model.
        InvalidInputError: its config.json lacks a size.
    """
    shape = model_shape(config)
    processes = gpus or config.train.processes
    half = config.model.dtype == "bfloat16" or (config.model.dtype == "auto" and gpus > 0)
    parameters, context = shape.parameters(), context_length(config)
    rollouts = (
        config.rollout.questions_per_step * config.rollout.group_size if config.kind != "sft" else 0
    )
    sequences = rollouts or config.train.batch_size
    batch = min(
        config.train.tokens_per_micro_batch,
        max(context, math.ceil(sequences / processes) * context),
    )
    sampled = (config.rollout.max_searches + 1) * config.rollout.max_new_tokens
    trained = batch * min(1.0, sampled / context) if rollouts else batch
    lora = config.lora
    adapters = shape.adapters(lora.rank, lora.targets) if lora.rank else 0
    memory = {"runtime": RUNTIME_GIB["gpu" if gpus else "cpu"]}
    memory |= learner_memory(config, parameters, adapters, processes, half)
    memory |= batch_memory(config, shape, half, batch, round(trained))
    if gpus:
        copies = step_copies(config, adapters or parameters, processes, half)
        memory["optimizer_step"] = max(0.0, copies - memory["activations"] - memory["logits"])
    if rollouts:
        memory |= engine_memory(
            config, shape, parameters, min(config.rollout.batch_size, sequences), half
        )
    return {
        "kind": config.kind,
        "model": config.model.path or "a new tiny policy",
        "model_shape": asdict(shape),
        "parameters": parameters,
        "trained_parameters": adapters or parameters,
        "precision": "bfloat16" if half else "float32",
        "processes": processes,
        "zero_stage": config.deepspeed.zero_stage,
        "memory_per_process_gib": {**memory, "total": sum(memory.values())},
        "context_tokens": context,
        "sequences_per_step": sequences,
        "tokens_per_step": context * sequences,
        "sampled_tokens_per_step": sampled * rollouts,
        "updates_per_step": config.train.updates_per_step if rollouts else 1,
        "steps": config.train.steps,
        "disk_gib": disk(config, parameters, adapters or parameters, half),
    }


def engine_memory(
    config: Config, shape: ModelShape, parameters: int, in_flight: int, half: bool
) -> dict[str, float]:
    """GiB that the rollout engine adds to a training process.

    Servers (vllm.url) have GPUs of their own. The transformers engine works on the learner's
    weights, but for ZeRO 3.
    """
    size = 2 if half else 4
    if config.rollout.engine == "vllm" and config.vllm.url:
        return {}
    own = (
        config.rollout.engine == "vllm"
        or config.deepspeed.zero_stage == 3
        or config.rollout.one_step_off
    )
    own = own or config.lora.rank > 0  # adapters merged into weights of its own
    weights = (
        parameters
        * size
        / GIB
        / (config.vllm.tensor_parallel if config.rollout.engine == "vllm" else 1)
    )
    cache = kv_cache_bytes(shape, context_length(config), in_flight, size) / GIB
    if config.rollout.engine == "vllm" and config.vllm.kv_cache_gib:
        cache = config.vllm.kv_cache_gib
    return {"engine_weights": weights if own else 0.0, "kv_cache": cache}


def fitting_settings(config: Config, gpus: int, gib: float) -> list[str]:
    """Settings that together make the run fit into `gib` per GPU, the cheapest first; empty if none
    do.

    They are tried in the order of what they cost: smaller portions, sharding, recomputation,
    offloading.
    """
    tries: list[dict[str, Any]] = []
    if gpus > 1:
        tries += [
            {"deepspeed.zero_stage": stage}
            for stage in (1, 2)
            if stage > config.deepspeed.zero_stage
        ]
    tokens, slots = config.train.tokens_per_micro_batch, config.rollout.batch_size
    context = context_length(config)
    tries += [
        {"train.tokens_per_micro_batch": size}
        for size in (tokens // 2, tokens // 4)
        if size >= context
    ]
    tries += [{"rollout.batch_size": size} for size in (slots // 2, slots // 4) if size >= 8]
    tries += [{"train.gradient_checkpointing": True}]
    tries += [{"deepspeed.zero_stage": 3}] if gpus > 1 else []
    tries += [
        {
            "deepspeed.zero_stage": max(1, config.deepspeed.zero_stage),
            "deepspeed.offload_optimizer": True,
        }
    ]
    chosen: dict[str, Any] = {}
    for one in tries:
        chosen |= one
        if (
            estimate_run(with_settings(config, chosen), gpus)["memory_per_process_gib"]["total"]
            <= gib
        ):
            return [f"{key}={str(value).lower()}" for key, value in chosen.items()]
    return []


def with_settings(config: Config, changes: dict[str, Any]) -> Config:
    """A configuration with some keys (`section.key`) changed."""
    table = config.section_dict()
    for key, value in changes.items():
        section, name = key.split(".")
        table[section][name] = value
    return Config.model_validate(table)


def step_seconds(
    estimate: dict[str, Any], rollout_tokens: int, tflops: float, mfu: float, recompute: bool
) -> float:
    """Seconds of the learner per step at a stated rate, rollouts not included.

    6 floating-point operations per parameter and token for forward and backward pass (Kaplan et al.
    2020, section 2.1), 8 with recomputation; `rollout_tokens` are the mean tokens of a rollout,
    `tflops` the peak of one GPU.
    """
    work = (
        (8 if recompute else 6)
        * estimate["parameters"]
        * rollout_tokens
        * estimate["sequences_per_step"]
    )
    return work / (tflops * 1e12 * mfu * estimate["processes"])


def measured_seconds(run: Path, config: Config) -> float:
    """Seconds per step, scaled from those of an earlier run (its timings.jsonl) by the number of
    rollouts.

    Raises:
        MissingResourceError: the run has no timings.
    """
    rows = read_jsonl(run / TIMINGS_NAME)
    if not rows:
        raise MissingResourceError(f"{run}: no {TIMINGS_NAME} with steps to take rates from")
    before = read_resolved(run)
    steps = [row["total"] for row in rows[len(rows) // 10 :]]  # the first steps warm up
    return statistics.median(steps) * _sequences(config) / _sequences(before)


def _sequences(config: Config) -> int:
    if config.kind == "sft":
        return config.train.batch_size
    return config.rollout.questions_per_step * config.rollout.group_size


def learner_memory(
    config: Config, parameters: int, adapters: int, processes: int, half: bool
) -> dict[str, float]:
    """GiB per process of weights, gradients and AdamW (Rajbhandari et al. 2020, ZeRO, section 3).

    float32: 4 + 4 + 8 bytes per parameter; bfloat16: 2 + 2 + 12 (float32 master copy and two
    moments). Where there are adapters, they alone have gradients and an optimiser. Stage 1 divides
    the optimiser by the processes, stage 2 gradients too, stage 3 weights too.
    """
    weights, gradients, optimiser = (2, 2, 12) if half else (4, 4, 8)
    stage = config.deepspeed.zero_stage
    trained = adapters or parameters

    def gib(count: int, bytes_each: float, divided: bool) -> float:
        return count * bytes_each / (processes if divided else 1) / GIB

    memory = {
        "weights": gib(parameters + adapters, weights, stage >= 3),
        "gradients": gib(trained, gradients, stage >= 2),
        "optimizer": 0.0
        if config.deepspeed.offload_optimizer
        else gib(trained, optimiser, stage >= 1),
    }
    if config.kind == "rl" and (config.loss.kl > 0 or config.loss.log_kl):
        memory["reference"] = gib(parameters, weights, stage >= 3)
    if config.kind == "rl" and config.credit.algorithm == "ppo":
        memory["critic"] = sum(memory[name] for name in ("weights", "gradients", "optimizer"))
    return memory


def step_copies(config: Config, trained: int, processes: int, half: bool) -> float:
    """GiB that DeepSpeed's step adds on a GPU when the activations are gone: in bfloat16 at stages
    1 and 2 this process's gradients in one piece, and that piece in float32 (measured: 6 bytes per
    parameter).
    """
    if not half or config.deepspeed.zero_stage not in (1, 2) or config.deepspeed.offload_optimizer:
        return 0.0
    return 6 * trained / processes / GIB


def batch_memory(
    config: Config, shape: ModelShape, half: bool, tokens: int, trained: int
) -> dict[str, float]:
    """GiB of one micro-batch of `tokens`, of which `trained` have logits.

    Activations: T L b numbers, where b is what a block keeps for its backward pass when attention
    scores are not kept: inputs and results of normalisations, rotated queries, keys and values and
    what attention makes of them, gate, up, activation and product of the MLP. With gradient
    checkpointing T (L h + 1.5 b): the inputs of all blocks, one block and its gradients. Logits: 4
    float32 copies of those that exist at once.
    """
    h, q, kv, m = (
        shape.hidden,
        shape.heads * shape.head_dim,
        shape.kv_heads * shape.head_dim,
        shape.intermediate,
    )
    if not half:
        block = 6 * h + 3 * q + 3 * kv + 4 * m
    elif (
        config.train.compile
    ):  # no intermediate values of normalisations and of the product in the MLP
        block = 4 * h + 4 * q + 3 * m
    else:  # normalisations compute in float32, which counts twice
        block = 8 * h + 4 * q + 4 * m
    numbers = (
        shape.layers * h + 1.5 * block
        if config.train.gradient_checkpointing
        else shape.layers * block
    )
    logits = trained * shape.vocabulary
    logits = logits if logits <= KEPT_LOGITS else LOGITS_AT_ONCE["cuda" if half else "cpu"]
    heap = HEAP if not half and tokens * h * 4 < KEPT_BLOCKS else 1.0
    return {
        "activations": heap * tokens * numbers * (2 if half else 4) / GIB,
        "logits": heap * 4 * logits * 4 / GIB,
    }


def kv_cache_bytes(shape: ModelShape, context: int, sequences: int, bytes_each: int) -> int:
    """Keys and values: 2 x layers x key-value heads x head size x tokens x sequences in flight."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * context * sequences * bytes_each


def disk(config: Config, parameters: int, trained: int, half: bool) -> dict[str, float]:
    """GiB on disk: a checkpoint holds what is trained and its two moments in float32; one more is
    there while it is written.
    """
    checkpoint = (
        12 * trained / GIB * (2 if config.kind == "rl" and config.credit.algorithm == "ppo" else 1)
    )
    written = math.ceil(config.train.steps / (config.checkpoint.every or config.train.steps))
    kept = min(config.checkpoint.keep + 1, written)
    model = parameters * (2 if half else 4) / GIB
    return {"checkpoint": checkpoint, "checkpoints": checkpoint * kept, "model": model}


def model_shape(config: Config) -> ModelShape:
    """Sizes from config.json of model.path (a folder or a hub name in the local cache), or of a new
    tiny policy.
    """
    if not config.model.path:
        # The vocabulary of a tiny policy comes from its world; 968 is what the demo has.
        width = config.model.hidden_size
        return ModelShape(
            width, config.model.layers, width // 32, width // 32, 32, 2 * width, 968, True, True
        )
    path = _model_config_path(config.model.path)
    if path is None:
        return KNOWN[config.model.path.removesuffix("-Instruct")]
    spec = json.loads(path.read_text(encoding="utf-8"))
    try:
        heads = spec["num_attention_heads"]
        return ModelShape(
            hidden=spec["hidden_size"],
            layers=spec["num_hidden_layers"],
            heads=heads,
            kv_heads=spec.get("num_key_value_heads") or heads,
            head_dim=spec.get("head_dim") or spec["hidden_size"] // heads,
            intermediate=spec["intermediate_size"],
            vocabulary=spec["vocab_size"],
            tied=spec.get("tie_word_embeddings", False),
            qkv_bias=spec.get("attention_bias", spec.get("model_type") == "qwen2"),
        )
    except KeyError as error:
        raise InvalidInputError(
            f"{path}: expected the key {error} of a decoder-only language model"
        ) from None


def _model_config_path(model: str) -> Path | None:
    """config.json of a folder or of the local hub cache; None for a known model that is in
    neither.
    """
    local = Path(model) / "config.json"
    if local.is_file():
        return local
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(model, "config.json")
    except HFValidationError:  # a path, not a hub name
        cached = None
    if isinstance(cached, str):
        return Path(cached)
    if model.removesuffix("-Instruct") in KNOWN:
        return None
    raise MissingResourceError(
        f"model.path {model}: no {local} and not in the local hub cache; download it first"
    )
