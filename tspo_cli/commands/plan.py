"""`tspo plan`: what a training run will need, estimated from its configuration before it starts."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tspo_cli import console
from tspo_cli.errors import GateError, InvalidInputError, MissingResourceError

if TYPE_CHECKING:
    from tspo_cli.config.schema import Config

GIB = 2**30


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a decoder with grouped-query attention and a gated MLP (Llama, Qwen2 and relatives)."""

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
        """V h (1 or 2 times) + L (2 h q + 2 h kv + 3 h m + 2 h) + h, with q and kv the widths of queries and keys."""
        h, q, kv = self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim
        biases = q + 2 * kv if self.qkv_bias else 0
        layer = 2 * h * q + 2 * h * kv + 3 * h * self.intermediate + 2 * h + biases
        return self.vocabulary * h * (1 if self.tied else 2) + self.layers * layer + h


def plan(
    sources: Annotated[
        list[str], typer.Argument(help="Experiment files or recipe names, composed from left to right.")
    ],
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key.")] = None,
    gpus: Annotated[int, typer.Option(min=0, help="GPUs, one process each. 0: train.processes on the CPU.")] = 0,
    gpu_memory: Annotated[
        float, typer.Option(min=0, help="GiB of one GPU; exit code 6 where the estimate is more.")
    ] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Estimate memory, tokens and disk of a training run before it starts.

    Every figure but the parameter count and the ZeRO arithmetic is an upper estimate from the limits in the file.
    """
    from tspo_cli.config.load import load_config

    estimate = estimate_run(load_config(sources, settings or ()), gpus)
    if as_json:
        console.result_json(estimate)
    else:
        console.result(_text(estimate))
    needed = estimate["memory_per_process_gib"]["total"]
    if gpu_memory and needed > gpu_memory:
        raise GateError(f"about {needed:.1f} GiB for one process, more than --gpu-memory {gpu_memory:g}")


def estimate_run(config: Config, gpus: int) -> dict[str, Any]:
    """The whole estimate as plain values (GiB, tokens, counts).

    Raises:
        MissingResourceError: model.path is not on this machine.
        InvalidInputError: its config.json lacks a size.
    """
    shape = model_shape(config)
    processes = gpus or config.train.processes
    half = config.model.dtype == "bfloat16" or (config.model.dtype == "auto" and gpus > 0)
    parameters = shape.parameters()
    context = context_tokens(config)
    memory = {**learner_memory(config, parameters, processes, half), **batch_memory(config, shape, half)}
    rollouts = config.rollout.questions_per_step * config.rollout.group_size if config.kind != "sft" else 0
    if rollouts:
        in_flight = min(config.rollout.batch_size, math.ceil(rollouts / processes))
        memory["engine_weights"] = parameters * (2 if half else 4) / GIB
        memory["kv_cache"] = kv_cache_bytes(shape, context, in_flight, 2 if half else 4) / GIB
    return {
        "kind": config.kind,
        "model": config.model.path or "a new tiny policy",
        "model_shape": asdict(shape),
        "parameters": parameters,
        "precision": "bfloat16" if half else "float32",
        "processes": processes,
        "zero_stage": config.deepspeed.zero_stage,
        "memory_per_process_gib": {**memory, "total": sum(memory.values())},
        "context_tokens": context,
        "sequences_per_step": rollouts or config.train.batch_size,
        "tokens_per_step": context * (rollouts or config.train.batch_size),
        "steps": config.train.steps,
        "disk_gib": disk(config, parameters, half),
    }


def context_tokens(config: Config) -> int:
    """Longest trajectory: prompt + (searches + 1) sampled turns + one observation per search, in tokens."""
    rollout = config.rollout
    turns = rollout.max_searches * (rollout.max_new_tokens + rollout.max_observation_tokens) + rollout.max_new_tokens
    return config.model.max_context or rollout.max_prompt_tokens + turns


def learner_memory(config: Config, parameters: int, processes: int, half: bool) -> dict[str, float]:
    """GiB per process of weights, gradients and AdamW (Rajbhandari et al. 2020, ZeRO, section 3).

    float32: 4 + 4 + 8 bytes per parameter; bfloat16: 2 + 2 + 12 (float32 master copy and two moments).
    Stage 1 divides the optimiser by the processes, stage 2 gradients too, stage 3 weights too.
    """
    weights, gradients, optimiser = (2, 2, 12) if half else (4, 4, 8)
    stage = config.deepspeed.zero_stage

    def gib(bytes_each: float, divided: bool) -> float:
        return parameters * bytes_each / (processes if divided else 1) / GIB

    memory = {
        "weights": gib(weights, stage >= 3),
        "gradients": gib(gradients, stage >= 2),
        "optimizer": 0.0 if config.deepspeed.offload_optimizer else gib(optimiser, stage >= 1),
    }
    if config.kind == "rl" and (config.loss.kl > 0 or config.loss.log_kl):
        memory["reference"] = gib(weights, stage >= 3)
    if config.kind == "rl" and config.credit.algorithm == "ppo":
        memory["critic"] = sum(memory[name] for name in ("weights", "gradients", "optimizer"))
    return memory


def batch_memory(config: Config, shape: ModelShape, half: bool) -> dict[str, float]:
    """GiB of one micro-batch of T tokens without recomputation, both rough upper estimates.

    Activations: T L (6 h + 3 q + 3 kv + 4 m) numbers, what a block keeps for its backward pass when attention scores
    are not kept (inputs and normalised inputs, projections and rotations, gate, up, activation, product). Counted on
    Qwen2 blocks in float32, autograd kept 2 to 10 % less. Logits: 2 T V float32 numbers, values and gradients.
    """
    tokens = config.train.tokens_per_micro_batch
    q, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    block = 6 * shape.hidden + 3 * q + 3 * kv + 4 * shape.intermediate
    activations = tokens * shape.layers * block * (2 if half else 4)
    return {"activations": activations / GIB, "logits": 2 * tokens * shape.vocabulary * 4 / GIB}


def kv_cache_bytes(shape: ModelShape, context: int, sequences: int, bytes_each: int) -> int:
    """Keys and values: 2 x layers x key-value heads x head size x tokens x sequences in flight."""
    return 2 * shape.layers * shape.kv_heads * shape.head_dim * context * sequences * bytes_each


def disk(config: Config, parameters: int, half: bool) -> dict[str, float]:
    """GiB on disk: a checkpoint holds weights, master copy and moments; one more is there while it is written."""
    checkpoint = parameters * (14 if half else 12) / GIB
    written = math.ceil(config.train.steps / (config.checkpoint.every or config.train.steps))
    kept = min(config.checkpoint.keep + 1, written)
    model = parameters * (2 if half else 4) / GIB
    return {"checkpoint": checkpoint, "checkpoints": checkpoint * kept, "model": model}


def model_shape(config: Config) -> ModelShape:
    """Sizes from config.json of model.path (a folder or a hub name in the local cache), or of a new tiny policy."""
    if not config.model.path:
        # The vocabulary of a tiny policy comes from its world; 400 is about what the recipes have.
        width = config.model.hidden_size
        return ModelShape(width, config.model.layers, width // 32, width // 32, 32, 2 * width, 400, True, True)
    path = _model_config_path(config.model.path)
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
        raise InvalidInputError(f"{path}: expected the key {error} of a decoder-only language model") from None


def _model_config_path(model: str) -> Path:
    local = Path(model) / "config.json"
    if local.is_file():
        return local
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(model, "config.json")
    except HFValidationError:  # a path, not a hub name
        cached = None
    if not isinstance(cached, str):
        raise MissingResourceError(f"model.path {model}: no {local} and not in the local hub cache; download it first")
    return Path(cached)


def _text(estimate: dict[str, Any]) -> str:
    memory, on_disk = estimate["memory_per_process_gib"], estimate["disk_gib"]
    size = estimate["parameters"]
    lines = [
        f"{estimate['kind']}, {estimate['model']}: {size / 1e6:,.2f} M parameters, {estimate['precision']}",
        f"{estimate['processes']} process(es), ZeRO stage {estimate['zero_stage']}",
        "",
        "memory of one process, GiB (estimated, upper)",
        *(f"  {name.replace('_', ' '):<16}{value:>10.3f}" for name, value in memory.items()),
        "",
        f"tokens: at most {estimate['context_tokens']:,} a sequence, {estimate['sequences_per_step']:,} sequences and "
        f"{estimate['tokens_per_step']:,} tokens a step, {estimate['steps']:,} steps",
        f"disk, GiB (estimated): {on_disk['checkpoint']:.3f} a checkpoint, {on_disk['checkpoints']:.3f} for those kept "
        f"and the one being written, {on_disk['model']:.3f} for the exported model; rollouts and logs come on top",
    ]
    return "\n".join(lines)
