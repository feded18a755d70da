"""What a training run will need: memory, tokens, time and disk, from its configuration alone."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from tspo_cli.config.context import context_length
from tspo_cli.config.schema import Config
from tspo_cli.training.planning import engine_memory
from tspo_cli.training.planning.memory import PlannedRun, disk_space
from tspo_cli.training.planning.model_shape import model_shape
from tspo_cli.training.planning.phases import process_phases


@dataclass(frozen=True, slots=True)
class LongestSequence:
    """`tokens` of the longest sequence of a run, and where the number comes from, in words.
    `lengths` are those of all sequences where they are known.
    """

    tokens: int
    source: str
    lengths: tuple[int, ...] = ()

    @classmethod
    def by_limits(cls, config: Config) -> LongestSequence:
        """What the limits allow."""
        source = "model.max_context" if config.model.max_context else "the sum of the limits"
        return cls(context_length(config), source)


def estimate_run(
    config: Config, gpus: int, longest: LongestSequence | None = None, gpu_gib: float = 0.0
) -> dict[str, Any]:
    """The whole estimate as plain values (GiB, tokens, counts) for `gpus` processes with a GPU each
    (0: CPU), of which a program gets `gpu_gib` (0: not known). Without `longest`, sequences are as
    long as the limits allow.

    Raises:
        MissingResourceError: model.path is not on this machine and no known model.
        InvalidInputError: its config.json lacks a size.
    """
    longest = longest or LongestSequence.by_limits(config)
    context = longest.tokens
    run = PlannedRun(config, model_shape(config), gpus, context, longest.lengths, gpu_gib)
    phases = process_phases(run)
    sampled = (config.rollout.max_searches + 1) * config.rollout.max_new_tokens
    return {
        "kind": config.kind,
        "model": config.model.path or "a new tiny policy",
        "model_shape": asdict(run.shape),
        "parameters": run.parameters,
        "active_parameters": run.shape.active_parameters(),
        "trained_parameters": run.trained,
        "precision": "bfloat16" if run.is_bfloat16 else "float32",
        "processes": run.processes,
        "zero_stage": config.deepspeed.zero_stage,
        "memory_per_process_gib": {
            **phases.parts[phases.largest],
            "total": phases.peak,
        },
        "peak_phase": phases.largest,
        "phases_gib": phases.totals,
        "host_memory_per_process_gib": phases.host,
        "engine_problem": engine_memory.cache_problem(run),
        "context_tokens": context,
        "context_from": longest.source,
        "sequences_per_step": run.sequences,
        "tokens_per_step": context * run.sequences,
        "sampled_tokens_per_step": sampled * run.rollouts,
        "updates_per_step": config.train.updates_per_step if run.rollouts else 1,
        "steps": config.train.steps,
        "disk_gib": disk_space(run),
    }
