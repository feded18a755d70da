"""When a training process needs the most memory: in which phase of a step, and for what."""

from __future__ import annotations

from dataclasses import dataclass

from tspo_cli.training.core.engine_weights import is_plain_model
from tspo_cli.training.planning import engine_memory
from tspo_cli.training.planning.memory import (
    GIB,
    RUNTIME_GIB,
    PlannedRun,
    batch_memory,
    deepspeed_buffers,
    exchange_tables,
    learner_memory,
    step_copies,
)

CARD_SHARE = 0.9875
"""What a program gets of a GPU's nominal memory: 79.0 GiB of 80, 139.2 of 141."""
FRAGMENTS = 0.05
"""Of what a phase allocates and frees, this share is lost between PyTorch's blocks (4 % measured:
1.7 GiB with 45 GiB of activations).
"""
_FREED = {"activations", "logits", "optimizer_step", "exchange", "gathered", "workspace"}


@dataclass(frozen=True)
class Phases:
    """GiB of one process by phase and part; `host` is CPU memory beside that of a GPU."""

    parts: dict[str, dict[str, float]]
    host: dict[str, float]

    @property
    def totals(self) -> dict[str, float]:
        """GiB of each phase."""
        return {phase: sum(parts.values()) for phase, parts in self.parts.items()}

    @property
    def largest(self) -> str:
        """The phase that needs the most."""
        totals = self.totals
        return max(totals, key=totals.__getitem__)

    @property
    def peak(self) -> float:
        """GiB that the process needs."""
        return max(self.totals.values())


def process_phases(run: PlannedRun) -> Phases:
    """What a process holds in each phase. On a CPU it keeps what it has freed for the next tensors,
    so that all phases count together.
    """
    batch = batch_memory(run, *micro_batch_tokens(run))
    if not run.gpus:
        parts = {"runtime": RUNTIME_GIB["cpu"], **learner_memory(run), **batch}
        if engine_memory.has_engine(run):
            parts |= _awake(run)
        return Phases({"update": parts}, {})
    learner, engine = learner_memory(run), _awake(run) if engine_memory.has_engine(run) else {}
    asleep = _asleep(run, engine)
    update = learner | deepspeed_buffers(run) | batch | asleep
    copies = step_copies(run) - batch["activations"] - batch["logits"]
    update |= {"optimizer_step": max(0.0, copies), "exchange": exchange_tables(run)}
    phases = {"update": update}
    if engine:
        phases["rollouts"] = learner | engine | {"workspace": engine_memory.workspace(run)}
        sleeps = engine_memory.sleep_level(run) > 0
        there = {name: value for name, value in engine.items() if not sleeps or name != "kv_cache"}
        phases["hand_over"] = learner | there | _gathered(run)
    phases = {name: _on_card(parts) for name, parts in phases.items()}
    return Phases(phases, _host(run, engine))


def micro_batch_tokens(run: PlannedRun) -> tuple[int, int]:
    """Tokens of the largest micro-batch, and how many of them are trained."""
    config, context = run.config, run.context
    # A sequence longer than a micro-batch gets one of its own.
    tokens = max(context, min(config.train.tokens_per_micro_batch, run.process_tokens))
    own_words_alone = bool(run.rollouts) or config.loss.context_weight == 0
    return tokens, round(tokens * run.sampled_tokens / context) if own_words_alone else tokens


def _awake(run: PlannedRun) -> dict[str, float]:
    """Of an engine that rolls out, without what it computes with."""
    return {
        "engine_weights": engine_memory.engine_weights(run),
        "kv_cache": engine_memory.kv_cache(run),
        "cuda_graphs": engine_memory.cuda_graphs(run),
    }


def _asleep(run: PlannedRun, engine: dict[str, float]) -> dict[str, float]:
    """What an engine keeps while the learner works: vLLM's sleep frees weights and cache."""
    if not engine or not run.is_vllm:  # our own engine frees its cache when a batch has ended
        return {name: value for name, value in engine.items() if name != "kv_cache"}
    return {"cuda_graphs": engine["cuda_graphs"]} if engine_memory.sleep_level(run) else engine


def _gathered(run: PlannedRun) -> dict[str, float]:
    """What a hand-over makes of shards or adapters: the whole model, or whole adapters for vLLM."""
    if is_plain_model(run.config, run.config.deepspeed.zero_stage):
        return {}
    if run.is_vllm and run.config.lora.as_adapters(bfloat16=run.is_bfloat16):
        return {"gathered": run.adapters * run.bytes_per_number / GIB}
    return {"gathered": run.parameters * run.bytes_per_number / GIB}


def _on_card(parts: dict[str, float]) -> dict[str, float]:
    """With the CUDA context, and what is lost between the allocator's blocks."""
    fragments = FRAGMENTS * sum(value for name, value in parts.items() if name in _FREED)
    return {"runtime": RUNTIME_GIB["gpu"], **parts, "fragments": fragments}


def _host(run: PlannedRun, engine: dict[str, float]) -> dict[str, float]:
    """GiB of CPU memory: what is offloaded, and weights of an engine that sleeps at level 1."""
    config = run.config
    host = {}
    if config.deepspeed.offload_optimizer:
        models = 2 if run.has_critic else 1
        # float32 master copy, two moments and the gradient
        host["optimizer"] = models * 16 * run.trained / run.processes / GIB
    if config.deepspeed.offload_reference and run.has_reference:
        host["reference"] = run.parameters * run.bytes_per_number / run.processes / GIB
    if engine and engine_memory.sleep_level(run) == 1:
        host["engine_weights"] = engine["engine_weights"]
    return host
