"""The settings with which a run would fit into the memory of a GPU."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from tspo_cli.config.rules import rule_problems
from tspo_cli.config.schema import Config
from tspo_cli.training.planning.engine_memory import cache_problem, full_cache
from tspo_cli.training.planning.memory import PlannedRun
from tspo_cli.training.planning.model_shape import model_shape
from tspo_cli.training.planning.phases import process_phases

Changes = dict[str, Any]
"""New values by key (`section.key`)."""

SMALLEST_CACHE_GIB = 2.0


def fitting_settings(config: Config, gpus: int, gib: float, context: int) -> list[str]:
    """`key=value` settings with which the run fits into `gib` per GPU; empty if none do. Sequences
    have at most `context` tokens.

    The changes of `remedies` are added in their order until the run fits. Those that it does not
    need then are left out again, beginning with the one that harms most.
    """
    shape = model_shape(config)
    planned = PlannedRun(config, shape, gpus, context)

    def fits(changes: Changes) -> bool:
        changed = with_settings(config, changes)
        if next(rule_problems(changed), None) is not None:
            return False
        run = PlannedRun(changed, shape, gpus, context, gpu_gib=gib if gpus else 0.0)
        return cache_problem(run) is None and process_phases(run).peak <= gib

    used: list[Changes] = []
    for changes in remedies(config, gpus, context, full_cache(planned)):
        used.append(changes)
        if fits(_merged(used)):
            break
    else:
        return []
    for changes in used[-2::-1]:
        fewer = [kept for kept in used if kept is not changes]
        if fits(_merged(fewer)):
            used = fewer
    return _in_words(config, _merged(used))


def remedies(config: Config, gpus: int, context: int, cache: float) -> Iterator[Changes]:
    """Changes that save memory, the one that harms least first. `cache` is the size of a KV cache
    (GiB) for all sequences in flight.

    First those that leave results alone: sleep of the engine, smaller caches and portions, sharding
    of optimiser and gradients, recomputation, sharding of weights, offloading. At last those that
    make it another experiment: no KL, adapters.
    """
    is_vllm = config.rollout.engine == "vllm" and config.kind != "sft"
    in_process = is_vllm and not config.has_vllm_servers
    stage = config.deepspeed.zero_stage
    if in_process and config.vllm.sleep == 0:
        yield {"vllm.sleep": 1}
    yield from _smaller_caches(config, in_process, cache)
    tokens = config.train.tokens_per_micro_batch
    for size in (tokens // 2, tokens // 4):
        if size >= context:
            yield {"train.tokens_per_micro_batch": size}
    for higher in (1, 2):
        if gpus > 1 and higher > stage:
            yield {"deepspeed.zero_stage": higher}
    if not config.train.gradient_checkpointing:
        yield {"train.gradient_checkpointing": True}
    if gpus > 1 and stage < 3:
        yield {"deepspeed.zero_stage": 3}
    compares = config.kind == "rl" and (config.loss.kl > 0 or config.loss.log_kl)
    if compares and not config.deepspeed.offload_reference:
        yield {"deepspeed.offload_reference": True}
    if not config.deepspeed.offload_optimizer:
        yield {"deepspeed.zero_stage": max(1, stage), "deepspeed.offload_optimizer": True}
    if compares:
        yield {"loss.kl": 0.0, "loss.log_kl": False}
    if not config.lora.rank:
        yield {"lora.rank": 64, "lora.alpha": 128}


def with_settings(config: Config, changes: Changes) -> Config:
    """A configuration with some keys (`section.key`) changed."""
    table = config.section_dict()
    for key, value in changes.items():
        section, name = key.split(".")
        table[section][name] = value
    return Config.model_validate(table)


def _smaller_caches(config: Config, in_process: bool, full: float) -> Iterator[Changes]:
    if in_process:
        size = config.vllm.kv_cache_gib / 2 or float(2 ** int(math.log2(max(full, 1.0))))
        while size >= SMALLEST_CACHE_GIB:
            yield {"vllm.kv_cache_gib": size}
            size /= 2
        return
    for slots in (config.rollout.batch_size // 2, config.rollout.batch_size // 4):
        if slots >= 8 and config.kind != "sft":
            yield {"rollout.batch_size": slots}


def _merged(parts: list[Changes]) -> Changes:
    merged: Changes = {}
    for part in parts:
        stage = max(merged.get("deepspeed.zero_stage", 0), part.get("deepspeed.zero_stage", 0))
        merged |= part
        if stage:  # offloading needs stage 1 and keeps a higher one
            merged["deepspeed.zero_stage"] = stage
    return merged


def _in_words(config: Config, changes: Changes) -> list[str]:
    table = config.section_dict()

    def is_new(key: str) -> bool:
        section, name = key.split(".")
        return bool(table[section][name] != changes[key])

    return [f"{key}={json.dumps(value)}" for key, value in changes.items() if is_new(key)]
