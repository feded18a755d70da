"""The whole plan of a run: memory, time, disk, weights for servers, and whether it fits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tspo_cli.config.schema import Config
from tspo_cli.console import counted
from tspo_cli.errors import GateError, InvalidInputError, TspoError, UsageError
from tspo_cli.models.checks.model_size import LARGE
from tspo_cli.rollout.engines.vllm_engine.vllm_messages import transfer_in_words
from tspo_cli.training.planning.estimate import LongestSequence, estimate_run
from tspo_cli.training.planning.fitting import fitting_settings
from tspo_cli.training.planning.memory import PlannedRun
from tspo_cli.training.planning.model_shape import model_shape
from tspo_cli.training.planning.phases import CARD_SHARE
from tspo_cli.training.planning.server_memory import ServerMemory, launched_servers
from tspo_cli.training.planning.step_time import (
    cpu_seconds,
    gpu_seconds,
    matrix_rate,
    measured_seconds,
)
from tspo_cli.variables import default_threads


@dataclass(frozen=True, slots=True)
class Hardware:
    """What trains. gpus: one process each; 0: train.processes on the CPU. gpu_memory: GiB of one
    (0: no limit). tflops: its peak, 10^12 operations a second. mfu: the share that is reached.
    """

    gpus: int
    gpu_memory: float
    tflops: float
    mfu: float

    @property
    def offered(self) -> float:
        """GiB of one GPU that a program gets; 0: no limit."""
        return self.gpu_memory * CARD_SHARE


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run needs: `estimate` as `tspo plan --json` prints it, without the `servers`."""

    hardware: Hardware
    estimate: dict[str, Any]
    servers: Mapping[str, ServerMemory]

    def problem(self) -> TspoError | None:
        """Why the run cannot work on this hardware; None where nothing is known against it."""
        hardware, needed = self.hardware, self.estimate["memory_per_process_gib"]["total"]
        if "would_fit_with" in self.estimate:
            cure = (
                " ".join(f"--set {setting}" for setting in self.estimate["would_fit_with"])
                or "more GPUs or a smaller model"
            )
            return GateError(
                f"about {needed:.1f} GiB for one process, more than the {hardware.offered:.1f} GiB "
                f"that --gpu-memory {hardware.gpu_memory:g} offers; it would fit with {cure}"
            )
        servers = (memory.problem for memory in self.servers.values())
        problem = next(filter(None, (self.estimate["engine_problem"], *servers)), None)
        if problem is None:
            return None
        return GateError(problem) if hardware.gpu_memory else InvalidInputError(problem)


def plan_run(
    config: Config, hardware: Hardware, longest: LongestSequence, rates: Path | None, tokens: int
) -> RunPlan:
    """The plan of a run whose settings have no problem. `longest`: its longest sequence. `rates`:
    an earlier run on this machine whose step times are scaled. `tokens`: the mean of a rollout (0:
    the most possible).

    Raises:
        UsageError: `tokens` have no effect on the time.
        MissingResourceError: `rates` has no step times, or the model is not there.
        InvalidInputError: the model cannot be read.
    """
    gpus, offered = hardware.gpus, hardware.offered
    estimate = estimate_run(config, gpus, longest, offered)
    context = estimate["context_tokens"]
    estimate |= _step_time(config, hardware, estimate, rates, tokens)
    if hardware.gpu_memory:
        estimate["gpu_offers_gib"] = offered
        if estimate["memory_per_process_gib"]["total"] > offered:
            estimate["would_fit_with"] = fitting_settings(config, gpus, offered, context)
    if transfer := transfer_in_words(config, gpu=gpus > 0):
        estimate["weights_to_servers"] = transfer
    run = PlannedRun(config, model_shape(config), gpus, context, gpu_gib=offered)
    return RunPlan(hardware, estimate, launched_servers(run))


def _step_time(
    config: Config, hardware: Hardware, estimate: dict[str, Any], rates: Path | None, tokens: int
) -> dict[str, Any]:
    """Seconds of a step and what they follow from; nothing for a small model on a CPU."""
    is_computed = hardware.gpus > 0 or estimate["parameters"] > LARGE
    if tokens and (rates is not None or not is_computed):
        raise UsageError(
            "--rollout-tokens counts for the time of --gpus, or of a model of more than 50 million "
            "parameters on a CPU; give --gpus N without --rates, or leave it out"
        )
    tokens = tokens or estimate["context_tokens"]
    if rates is not None:
        seconds, source = measured_seconds(rates, config), str(rates)
    elif hardware.gpus:
        seconds = gpu_seconds(config, estimate, tokens, hardware.tflops, hardware.mfu)
        alone = "" if config.kind == "sft" else "the learner alone, without rollouts; "
        source = f"{alone}{hardware.tflops:g} TFLOPS at {hardware.mfu:.0%}"
    elif is_computed:
        threads = config.train.threads or default_threads()
        rate = matrix_rate(threads, bfloat16=estimate["precision"] == "bfloat16")
        seconds = cpu_seconds(config, estimate, tokens, rate)
        source = (
            f"learner and engine, {counted(threads, 'CPU thread')} with {rate / 1e9:,.0f} GFLOPS"
        )
    else:
        return {}
    return {"seconds_per_step": seconds, "seconds_from": source}
