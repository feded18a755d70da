"""What a training run will need: memory, tokens, time and disk, from its configuration alone."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tspo_cli.config.context import context_length
from tspo_cli.config.load_config import read_resolved
from tspo_cli.config.schema import Config
from tspo_cli.errors import MissingResourceError
from tspo_cli.runs import TIMINGS_NAME, read_jsonl
from tspo_cli.training.planning.memory import PlannedRun, disk_space, process_memory
from tspo_cli.training.planning.model_shape import model_shape


@dataclass(frozen=True, slots=True)
class LongestSequence:
    """`tokens` of the longest sequence of a run, and where the number comes from, in words."""

    tokens: int
    source: str

    @classmethod
    def by_limits(cls, config: Config) -> LongestSequence:
        """What the limits allow."""
        source = "model.max_context" if config.model.max_context else "the sum of the limits"
        return cls(context_length(config), source)


def estimate_run(
    config: Config, gpus: int, longest: LongestSequence | None = None
) -> dict[str, Any]:
    """The whole estimate as plain values (GiB, tokens, counts) for `gpus` processes with a GPU each
    (0: CPU). Without `longest`, sequences are as long as the limits allow.

    Raises:
        MissingResourceError: model.path is not on this machine and no known model.
        InvalidInputError: its config.json lacks a size.
    """
    longest = longest or LongestSequence.by_limits(config)
    context = longest.tokens
    run = PlannedRun(config, model_shape(config), gpus, context)
    sampled = (config.rollout.max_searches + 1) * config.rollout.max_new_tokens
    return {
        "kind": config.kind,
        "model": config.model.path or "a new tiny policy",
        "model_shape": asdict(run.shape),
        "parameters": run.parameters,
        "trained_parameters": run.trained,
        "precision": "bfloat16" if run.is_bfloat16 else "float32",
        "processes": run.processes,
        "zero_stage": config.deepspeed.zero_stage,
        "memory_per_process_gib": process_memory(run),
        "context_tokens": context,
        "context_from": longest.source,
        "sequences_per_step": run.sequences,
        "tokens_per_step": context * run.sequences,
        "sampled_tokens_per_step": sampled * run.rollouts,
        "updates_per_step": config.train.updates_per_step if run.rollouts else 1,
        "steps": config.train.steps,
        "disk_gib": disk_space(run),
    }


def fitting_settings(config: Config, gpus: int, gib: float, context: int) -> list[str]:
    """Settings that together make the run fit into `gib` per GPU, the cheapest first; empty if none
    do. Sequences have at most `context` tokens.

    They are tried in the order of their cost: sharding, smaller portions, recomputation,
    offloading.
    """
    shape = model_shape(config)
    tries: list[dict[str, Any]] = []
    if gpus > 1:
        tries += [
            {"deepspeed.zero_stage": stage}
            for stage in (1, 2)
            if stage > config.deepspeed.zero_stage
        ]
    tokens, slots = config.train.tokens_per_micro_batch, config.rollout.batch_size
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
    for settings in tries:
        chosen |= settings
        run = PlannedRun(with_settings(config, chosen), shape, gpus, context)
        if process_memory(run)["total"] <= gib:
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
