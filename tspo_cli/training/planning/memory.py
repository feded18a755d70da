"""Memory and disk of a training run, in GiB.

Parameters and ZeRO's arithmetic are exact. Activations, logits and caches are estimated for
sequences as long as the longest of the run; experiments/benchmarks/plan_memory.py and
training_gpu.py compare them with measurements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tspo_cli.config.schema import Config
from tspo_cli.credit.find_algorithm import find_algorithm
from tspo_cli.models.checks.model_size import LARGE
from tspo_cli.models.logprobs import KEPT_LOGITS, LOGITS_AT_ONCE
from tspo_cli.training.core.deepspeed_setup import sums_in_float32
from tspo_cli.training.planning.model_shape import ModelShape

GIB = 2**30
# What a process occupies before it has a model: libraries, data and the world in memory (measured,
# torch 2.13 for CPUs), or, on a GPU, the CUDA context and communication buffers (stated).
RUNTIME_GIB = {"cpu": 0.44, "gpu": 1.5}
# Defaults of DeepSpeed 0.19: numbers of a bucket of gradients, of parameters that stage 3 keeps
# whole at once, and of those that its optimiser updates at once.
BUCKET, LIVE_PARAMETERS, SUB_GROUP = 5e8, 1e9, 1e9
# The C library keeps freed blocks of less than 32 MiB, in pieces that the next tensor does not fit
# into. Measured for widths of 96 to 512: 1.4 to 1.65 times what is in use.
KEPT_BLOCKS, HEAP = 32 * 2**20, 1.5


@dataclass(frozen=True)
class PlannedRun:
    """An experiment on `gpus` GPUs, one process each (0: on a CPU), with a model of `shape` and
    sequences of at most `context` tokens. `lengths` are those of all sequences if they are known,
    `gpu_gib` is what a program gets of one GPU (0: not known).
    """

    config: Config
    shape: ModelShape
    gpus: int
    context: int
    lengths: Sequence[int] = ()
    gpu_gib: float = 0.0

    @property
    def processes(self) -> int:
        """Training processes."""
        return self.gpus or self.config.train.processes

    @property
    def is_bfloat16(self) -> bool:
        """True where the model computes in bfloat16."""
        dtype = self.config.model.dtype
        return dtype == "bfloat16" or (dtype == "auto" and self.gpus > 0)

    @property
    def bytes_per_number(self) -> int:
        """Of weights, activations and caches."""
        return 2 if self.is_bfloat16 else 4

    @property
    def parameters(self) -> int:
        """Of the model, without adapters."""
        return self.shape.parameters()

    @property
    def adapters(self) -> int:
        """Numbers in LoRA adapters, 0 without any."""
        lora = self.config.lora
        return self.shape.adapters(lora.rank, lora.targets) if lora.rank else 0

    @property
    def trained(self) -> int:
        """Parameters that have gradients and an optimiser: the adapters where there are some, else
        those that are not frozen.
        """
        return self.adapters or self.parameters - self.frozen

    @property
    def frozen(self) -> int:
        """Parameters of embeddings and layers that model.frozen_layers leaves as they are."""
        return self.shape.frozen(self.config.model.frozen_layers)

    @property
    def rollouts(self) -> int:
        """Rollouts per step, 0 for SFT."""
        rollout = self.config.rollout
        return rollout.questions_per_step * rollout.group_size if self.config.kind != "sft" else 0

    @property
    def sequences(self) -> int:
        """Sequences per step."""
        return self.rollouts or self.config.train.batch_size

    @property
    def process_tokens(self) -> int:
        """Tokens of a step in one process at most: those of the longest sequences together."""
        count = math.ceil(self.sequences / self.processes)
        if not self.lengths:
            return count * self.context
        epochs, rest = divmod(count, len(self.lengths))
        return epochs * sum(self.lengths) + sum(sorted(self.lengths, reverse=True)[:rest])

    @property
    def sampled_tokens(self) -> int:
        """Tokens of a sequence that a model writes, at most."""
        rollout = self.config.rollout
        return min(self.context, (rollout.max_searches + 1) * rollout.max_new_tokens)

    @property
    def is_large_on_cpu(self) -> bool:
        """True where matrix products take most of the time of a CPU, see `model_size`."""
        return not self.gpus and self.parameters > LARGE

    @property
    def sums_in_float32(self) -> bool:
        """True where gradients are float32 and weights are not."""
        return sums_in_float32(self.config, bfloat16=self.is_bfloat16)

    @property
    def has_reference(self) -> bool:
        """True where a copy of the starting policy is kept. Adapters need none."""
        config = self.config
        compares = config.kind == "rl" and (config.loss.kl > 0 or config.loss.log_kl)
        return compares and not config.lora.rank

    @property
    def is_vllm(self) -> bool:
        """True where vLLM generates the rollouts."""
        return self.config.rollout.engine == "vllm"

    @property
    def has_servers(self) -> bool:
        """True where vLLM's engines are servers, which have GPUs of their own."""
        return self.is_vllm and self.config.has_vllm_servers

    @property
    def has_critic(self) -> bool:
        """True where a value model is trained beside the policy."""
        config = self.config
        return config.kind == "rl" and "critic" in find_algorithm(config.credit.algorithm).needs


def learner_memory(run: PlannedRun) -> dict[str, float]:
    """GiB per process of weights, gradients and AdamW (Rajbhandari et al. 2020, ZeRO, section 3).

    float32: 4 + 4 + 8 bytes per parameter; bfloat16: 2 + 2 + 12 (float32 master copy and two
    moments), 2 + 4 + 12 where gradients are added up in float32. With adapters, only they have
    gradients and an optimiser. Stage 1 divides the optimiser by the processes, stage 2 gradients
    too, stage 3 weights too.
    """
    config, stage = run.config, run.config.deepspeed.zero_stage
    weights, optimizer = (2, 12) if run.is_bfloat16 else (4, 8)
    gradients = 4 if run.sums_in_float32 else weights

    def gib(count: int, bytes_each: float, divided: bool) -> float:
        return count * bytes_each / (run.processes if divided else 1) / GIB

    memory = {
        "weights": gib(run.parameters + run.adapters, weights, stage >= 3),
        "gradients": gib(run.trained, gradients, stage >= 2),
        "optimizer": 0.0
        if config.deepspeed.offload_optimizer
        else gib(run.trained, optimizer, stage >= 1),
    }
    if run.has_reference and not config.deepspeed.offload_reference:
        memory["reference"] = gib(run.parameters, weights, stage >= 3)
    if run.has_critic:
        memory["critic"] = sum(memory[name] for name in ("weights", "gradients", "optimizer"))
    return memory


def step_copies(run: PlannedRun) -> float:
    """GiB that DeepSpeed's step adds on a GPU after the activations are freed.

    In bfloat16 at stages 1 and 2: this process's gradients in one piece, and that piece in float32
    (measured: 6 bytes per parameter; gradients in float32 need one copy of 4). Stage 3 does the
    same for 10^9 parameters at a time.
    """
    deepspeed = run.config.deepspeed
    if not run.is_bfloat16 or deepspeed.zero_stage == 0 or deepspeed.offload_optimizer:
        return 0.0
    share = run.trained / run.processes
    each = 4 if run.sums_in_float32 else 6
    return each * (min(share, SUB_GROUP) if deepspeed.zero_stage == 3 else share) / GIB


def deepspeed_buffers(run: PlannedRun) -> dict[str, float]:
    """GiB of DeepSpeed's buffers on a GPU during an update: buckets of gradients (two where
    communication overlaps, at stage 3), and whole parameters in use of each sharded model.
    """
    deepspeed, size = run.config.deepspeed, run.bytes_per_number
    stage, buffers = deepspeed.zero_stage, {}
    if not run.gpus:
        return {}
    if stage >= 2:
        buffers["buckets"] = (2 if stage == 3 else 1) * BUCKET * size / GIB
    sharded = 1 + run.has_critic + run.has_reference if stage == 3 else 0
    if stage < 3 and deepspeed.offload_reference:
        sharded += run.has_reference
    if sharded:
        buffers["gathered"] = sharded * min(LIVE_PARAMETERS, run.parameters) * size / GIB
    return buffers


def exchange_tables(run: PlannedRun) -> float:
    """GiB of the tables with which processes exchange sequences: 8 float64 numbers a token of all
    sequences of an update, and this process's own once more.
    """
    if run.processes == 1 or not run.config.train.balance_ranks:
        return 0.0
    updates = run.config.train.updates_per_step if run.rollouts else 1
    tokens = math.ceil(run.sequences / updates) * run.context
    return 64 * tokens * (1 + 1 / run.processes) / GIB


def batch_memory(run: PlannedRun, tokens: int, trained: int) -> dict[str, float]:
    """GiB of one micro-batch of `tokens`, of which `trained` have logits.

    Activations: T L b numbers, where b is what a block keeps for its backward pass when attention
    scores are not kept: inputs and results of normalisations, rotated queries, keys and values and
    the result of attention, gate, up, activation and product of the MLP. With gradient
    checkpointing T (L h + 1.5 b): the inputs of all blocks, one block and its gradients. Logits: 4
    float32 copies of those that exist at once, and the float32 head with its gradient.
    """
    shape, train = run.shape, run.config.train
    h, q, kv, m = (
        shape.hidden,
        shape.heads * shape.head_dim,
        shape.kv_heads * shape.head_dim,
        shape.intermediate,
    )
    if not run.is_bfloat16:
        block = 6 * h + 3 * q + 3 * kv + 4 * m
    elif train.compile:
        # no intermediate values of normalisations and of the product in the MLP
        block = 4 * h + 4 * q + 3 * m
    else:  # normalisations compute in float32, which counts twice
        block = 8 * h + 4 * q + 4 * m
    checkpointed = shape.layers * h + 1.5 * block
    numbers = checkpointed if train.gradient_checkpointing else shape.layers * block
    logits = trained * shape.vocabulary
    if logits > KEPT_LOGITS:
        logits = LOGITS_AT_ONCE["cuda" if run.is_bfloat16 else "cpu"]
    heap = HEAP if not run.is_bfloat16 and tokens * h * 4 < KEPT_BLOCKS else 1.0
    return {
        "activations": heap * tokens * numbers * run.bytes_per_number / GIB,
        "logits": heap * 4 * logits * 4 / GIB + 2 * float32_head(run),
    }


def float32_head(run: PlannedRun) -> float:
    """GiB of the copy of the output head that model.float32_head makes in every pass."""
    is_copied = run.is_bfloat16 and run.config.model.float32_head
    return 4 * run.shape.hidden * run.shape.vocabulary / GIB if is_copied else 0.0


def disk_space(run: PlannedRun) -> dict[str, float]:
    """GiB on disk, see `written_gib`."""
    return written_gib(
        run.config, run.trained, run.parameters * run.bytes_per_number, critic=run.has_critic
    )


def written_gib(config: Config, trained: int, model: int, *, critic: bool) -> dict[str, float]:
    """GiB that a run writes, for `trained` parameters and a model of `model` bytes.

    A checkpoint has the trained parameters and their two moments in float32; there is one more of
    them while it is written. No checkpoints: checkpoint.every and checkpoint.minutes are 0.
    Those of the best evaluations (train.on_warning) come on top.
    """
    checkpoint = 12 * trained / GIB * (2 if critic else 1)
    every = config.checkpoint.every
    written = math.ceil(config.train.steps / every) if every else 0
    if config.checkpoint.minutes:
        written = config.train.steps
    kept = min(max(config.checkpoint.keep, config.train.average_checkpoints) + 1, written)
    if config.train.on_warning == "reset_to_best":  # the best one now, and while it is replaced
        kept += 2
    exported = model / GIB if config.train.export_model else 0.0
    return {"checkpoint": checkpoint, "checkpoints": checkpoint * kept, "model": exported}
