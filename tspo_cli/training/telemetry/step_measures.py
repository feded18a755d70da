"""How fast a step was and how much memory it took, over all processes."""

from __future__ import annotations

import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tspo_cli.models.checks.model_size import token_parameters
from tspo_cli.training.core.distributed import gather_json
from tspo_cli.training.core.training_core import TrainingCore
from tspo_cli.training.telemetry.rollout_load import RolloutLoad, load_measures

PEAK_TFLOPS = {
    "A100": 312.0,
    "A800": 312.0,
    "B200": 2250.0,
    "H20": 148.0,
    "H100": 989.0,
    "H200": 989.0,
    "H800": 989.0,
    "L40S": 362.0,
}
"""Dense operations a second in bfloat16, in 10^12, by a word of the GPU's name (data sheets)."""
_SPREAD = ("rollout", "update")
"""Parts of a step whose fastest and slowest process are logged."""


@dataclass
class StepMeasures:
    """Measures every step of a training. All processes call it."""

    core: TrainingCore
    counted_tokens: int = 0

    def __call__(
        self, metrics: Mapping[str, float], seconds: Mapping[str, float], load: RolloutLoad
    ) -> dict[str, float]:
        """Values of a step, from its metrics, this process's seconds by part and its `load`.

        `tokens_per_second`: trained tokens by the duration of the whole step. `tflops`: operations
        of the forward and backward passes (`token_operations`) by their seconds, in 10^12 for
        each process.
        `mfu`: the same as a share of the GPU's peak, where that is known. `memory_gib`: largest
        resident memory of a process so far; `gpu_memory_gib` and `gpu_reserved_gib`: largest of the
        step. `rollout_fastest`, `rollout_slowest`, `update_fastest`, `update_slowest`: seconds of
        the processes, where there are several. Those of `load_measures` follow.
        """
        tokens = self.core.computed_tokens - self.counted_tokens
        self.counted_tokens = self.core.computed_tokens
        parts = {name: seconds[name] for name in ("forward_backward", *_SPREAD) if name in seconds}
        row = {"tokens": tokens, **parts, **_memory()}
        gathered = gather_json([row, load.requests, load.cache])
        rows = [row for row, _, _ in gathered]
        found = _spread(rows) | _largest(rows) | self._speed(rows)
        found |= load_measures([RolloutLoad(requests, cache) for _, requests, cache in gathered])
        if "tokens" in metrics and seconds.get("total"):
            found["tokens_per_second"] = metrics["tokens"] / seconds["total"]
        return found

    def _speed(self, rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
        taken = sum(row.get("forward_backward", 0.0) for row in rows)
        tokens = sum(row["tokens"] for row in rows)
        if not taken or not tokens:
            return {}
        adapters = bool(self.core.config.lora.rank)
        speed = token_operations(self.core.module, adapters=adapters) * tokens / taken / 1e12
        peak = _peak_tflops()
        return {"tflops": speed} | ({"mfu": speed / peak} if peak else {})


def _spread(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    if len(rows) == 1:
        return {}
    found: dict[str, float] = {}
    for name in _SPREAD:
        values = [row[name] for row in rows if name in row]
        if values:
            found |= {f"{name}_fastest": min(values), f"{name}_slowest": max(values)}
    return found


def _largest(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: max(row[name] for row in rows) for name in rows[0] if name.endswith("_gib")}


def _memory() -> dict[str, float]:
    """Memory of this process. The GPU's peak starts again with the next step."""
    unit = 1 if sys.platform == "darwin" else 1024
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    found = {"memory_gib": resident / 2**30}
    if torch.cuda.is_available():
        found["gpu_memory_gib"] = torch.cuda.max_memory_allocated() / 2**30
        found["gpu_reserved_gib"] = torch.cuda.max_memory_reserved() / 2**30
        torch.cuda.reset_peak_memory_stats()
    return found


def token_operations(model: Any, *, adapters: bool) -> float:
    """Operations of a token in forward and backward passes: for each parameter that it goes through
    2, and 2 for the gradients of activations, for each that is trained 2 for its own (Kaplan et al.
    2020, section 2.1). What recomputation repeats does not count. Without `adapters` what is not
    trained lies below what is: no gradients go through it.
    """
    through, trained = token_parameters(model)
    return 2 * through + 2 * (through if adapters else trained) + 2 * trained


def _peak_tflops() -> float | None:
    if not torch.cuda.is_available():
        return None
    words = torch.cuda.get_device_name().replace("-", " ").split()
    return next((PEAK_TFLOPS[word] for word in words if word in PEAK_TFLOPS), None)
