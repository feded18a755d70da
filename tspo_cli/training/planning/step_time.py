"""How long a step will take: from the operations of its tokens, or from another run."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

from tspo_cli.config.load_config import read_resolved
from tspo_cli.config.schema import Config
from tspo_cli.credit.find_algorithm import find_algorithm
from tspo_cli.errors import MissingResourceError
from tspo_cli.runs import TIMINGS_NAME, read_jsonl
from tspo_cli.training.core.losses import correction_of_rounding

CPU_LEARNER_SHARE, CPU_ENGINE_SHARE = 0.6, 0.25
"""Of the rate of a large matrix product on this CPU, what passes of the learner and of the engine
reach, whose products are smaller. SFT of a model of 135 M parameters reached 39 of 70 GFLOP/s (the
warm start of `make real`); the engine's share is an estimate.
"""


def learner_operations(
    config: Config,
    parameters: int,
    tokens: float,
    trained: int | None = None,
    *,
    bfloat16: bool = False,
) -> float:
    """Floating-point operations of the learner for `tokens`.

    Per parameter and token 2 for a forward pass, 2 for the gradients of activations and 2 for those
    of weights (Kaplan et al. 2020, section 2.1), which adapters spare; 2 more with gradient
    checkpointing. Without adapters only `trained` parameters (None: all) have gradients. A
    reference policy takes 2 more, and so do the log-probabilities before the update, where
    importance weights or the ratio need the learner's. A critic has an update and a forward pass of
    its own.
    """
    update = 2.0 if config.lora.rank else 3.0
    if trained is not None and not config.lora.rank:
        update = 1 + 2 * trained / parameters
    update += config.train.gradient_checkpointing
    passes = update
    if config.kind == "rl":
        passes += config.loss.kl > 0 or config.loss.log_kl
        corrected = correction_of_rounding(config, bfloat16=bfloat16) is not None
        passes += corrected or config.rollout.one_step_off
        passes += (update + 1) * ("critic" in find_algorithm(config.credit.algorithm).needs)
    return 2.0 * passes * parameters * tokens


def gpu_seconds(
    config: Config, estimate: dict[str, Any], rollout_tokens: int, tflops: float, mfu: float
) -> float:
    """Seconds of the learner per step at a stated rate, rollouts not included.

    `rollout_tokens` are the mean tokens of a rollout, `tflops` the peak of one GPU.
    """
    tokens = rollout_tokens * estimate["sequences_per_step"]
    parameters, trained = estimate["parameters"], estimate["trained_parameters"]
    is_bfloat16 = estimate["precision"] == "bfloat16"
    work = learner_operations(config, parameters, tokens, trained, bfloat16=is_bfloat16)
    return work * _active_share(estimate) / (tflops * 1e12 * mfu * estimate["processes"])


def cpu_seconds(
    config: Config, estimate: dict[str, Any], rollout_tokens: int, rate: float
) -> float:
    """Seconds per step of learner and engine on CPUs, whose large matrix products reach `rate`
    operations a second in each process. Every token goes through the engine once.
    """
    tokens = rollout_tokens * estimate["sequences_per_step"]
    parameters, trained = estimate["parameters"], estimate["trained_parameters"]
    is_bfloat16 = estimate["precision"] == "bfloat16"
    work = learner_operations(config, parameters, tokens, trained, bfloat16=is_bfloat16)
    seconds = work / CPU_LEARNER_SHARE
    if config.kind != "sft":
        seconds += 2.0 * parameters * tokens / CPU_ENGINE_SHARE
    return seconds * _active_share(estimate) / (rate * estimate["processes"])


def _active_share(estimate: dict[str, Any]) -> float:
    """Of a model's parameters, the share that a token goes through."""
    share: float = estimate["active_parameters"] / estimate["parameters"]
    return share


def matrix_rate(threads: int, *, bfloat16: bool) -> float:
    """Operations a second of a matrix product on this CPU with `threads`, measured for 0.3 s, as a
    large model with `bfloat16` weights or without computes it.
    """
    import torch

    from tspo_cli.models.dtype import product_dtype

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    size = 1024
    rates: list[float] = []
    matrix = torch.ones(size, size, dtype=product_dtype(bfloat16=bfloat16))
    end = time.perf_counter() + 0.3
    while time.perf_counter() < end or len(rates) < 2:
        start = time.perf_counter()
        matrix @ matrix
        rates.append(2.0 * size**3 / (time.perf_counter() - start))
    torch.set_num_threads(before)
    return statistics.median(rates[1:])


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
