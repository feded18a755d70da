"""What `tspo runs watch` shows of a run that goes on: how far it is, and where its metrics go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from tspo_cli.console import duration

OVER = ("unknown", "finished", "failed", "stopped", "killed")
"""States in which a run makes no more steps."""
CURVES = (
    "reward",
    "em",
    "loss",
    "agent_loss",
    "kl",
    "entropy",
    "grad_norm",
    "searches",
    "response_tokens",
    "invalid_share",
    "failed_share",
    "parity",
    "tokens_per_second",
    "retrieval_p99",
    "kv_cache_peak",
    "preemptions",
)
"""Metrics and timings that are drawn, in this order, of those that the run has."""

_WIDTH = 48
_BARS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Progress:
    """A run at one moment. `seconds_left` is None where no step is done or none is left; `curves`
    has the values of every step by metric, `evaluations` all scores as (step, data set, EM, F1).
    """

    run: str
    state: str
    step: int
    steps: int | None
    seconds_per_step: float | None
    seconds_left: float | None
    curves: dict[str, list[float]]
    evaluations: list[tuple[int, str, float | None, float | None]]
    warnings: list[str] = field(default_factory=list)

    @property
    def is_over(self) -> bool:
        """True when the run makes no more steps."""
        return self.state in OVER

    def record(self) -> dict[str, Any]:
        """For --json: the last values in place of the curves."""
        values = asdict(self)
        values["metrics"] = {name: curve[-1] for name, curve in values.pop("curves").items()}
        values["evaluations"] = [
            {"step": step, "dataset": dataset, "em": em, "f1": f1}
            for step, dataset, em, f1 in self.evaluations
        ]
        return values


def line_of(progress: Progress) -> str:
    """One line: state, steps, time, and the last values."""
    values = [f"{name} {curve[-1]:.4g}" for name, curve in progress.curves.items()]
    scores = [
        f"step {step}: {dataset} EM {em:.3f}"
        for step, dataset, em, _ in progress.evaluations[-1:]
        if em is not None
    ]
    parts = [f"{progress.run} {progress.state}", _steps(progress), *_times(progress)]
    return "  ".join([*parts, *values[:4], *scores])


def screen_of(progress: Progress) -> str:
    """Some lines: the same, with a curve for each metric, all evaluations and all warnings."""
    lines = [
        "  ".join([f"{progress.run}: {progress.state}", _steps(progress), *_times(progress)]),
        "",
    ]
    width = max(map(len, progress.curves), default=0)
    lines += [
        f"{name:<{width}}  {curve[-1]:>10.4g}  {sparkline(curve)}"
        for name, curve in progress.curves.items()
    ]
    by_dataset: dict[str, list[str]] = {}
    for step, dataset, em, _ in progress.evaluations:
        if em is not None:
            by_dataset.setdefault(dataset, []).append(f"{em:.3f} (step {step})")
    lines += ["", *(f"EM {name}: {', '.join(row[-6:])}" for name, row in by_dataset.items())]
    lines += [f"warning: {sentence}" for sentence in progress.warnings]
    return "\n".join(lines).rstrip()


def sparkline(values: Sequence[float], width: int = _WIDTH) -> str:
    """The values as a row of bars from their least to their greatest, each bar the mean of equally
    many steps where there are more steps than `width`.
    """
    count = len(values)
    cells = min(count, width)
    means = []
    for cell in range(cells):
        part = values[cell * count // cells : (cell + 1) * count // cells]
        means.append(sum(value / len(part) for value in part))
    low, high = min(means, default=0.0), max(means, default=0.0)
    if high == low:
        return _BARS[0] * cells
    size = high / 2 - low / 2  # halves: the difference of huge numbers would be infinite
    tops = len(_BARS) - 1
    return "".join(_BARS[round((mean / 2 - low / 2) / size * tops)] for mean in means)


def _steps(progress: Progress) -> str:
    return f"step {progress.step}/{progress.steps if progress.steps is not None else '?'}"


def _times(progress: Progress) -> list[str]:
    if progress.seconds_per_step is None:
        return []
    left = [] if progress.seconds_left is None else [f"{duration(progress.seconds_left)} left"]
    return [f"{progress.seconds_per_step:.3g} s/step", *left]
