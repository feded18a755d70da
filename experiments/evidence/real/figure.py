"""The figure of the study on real questions, from its results and the metrics of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from tspo_cli.reporting.figure import load_pyplot, save_figure

COLORS = {"grpo": "C0", "tspo": "C1", "retrieval_bonus": "C2"}
MARKERS = "osD^v"
"""One for each seed."""


def draw(
    rows: Sequence[Mapping[str, Any]],
    rewards: Mapping[str, Sequence[Sequence[float]]],
    before: float,
    file: Path,
) -> None:
    """Draw EM at the end of every run beside that of the start, and the training reward of each arm
    up to each step.

    Args:
        rows: arm, seed and EM (0 to 1) of every finished run.
        rewards: for each arm, the mean reward of every step of every run.
        before: EM of the start.
        file: where the figure goes.
    """
    pyplot = load_pyplot()
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8.4, 3.2))
    arms = [arm for arm in COLORS if arm in rewards]
    for seed, marker in zip(sorted({row["seed"] for row in rows}), MARKERS, strict=False):
        ends = {row["arm"]: 100 * float(row["em"]) for row in rows if row["seed"] == seed}
        places = [place for place, arm in enumerate(arms) if arm in ends]
        values = [ends[arms[place]] for place in places]
        left.plot(places, values, marker, color="0.3", ls="-", lw=0.6, label=f"seed {seed}")
    left.axhline(100 * before, color="0.4", lw=1, ls="--", label="before RL")
    left.set_xticks(range(len(arms)), arms)
    left.set_xlim(-0.5, len(arms) - 0.5)
    left.set_ylim(bottom=0)
    left.set_ylabel("EM of 64 held-out questions (%)")
    for arm in arms:
        means = [100 * fmean(step) for step in zip(*rewards[arm], strict=True)]
        so_far = [fmean(means[: step + 1]) for step in range(len(means))]
        right.plot(range(1, len(means) + 1), so_far, "o-", ms=3, color=COLORS[arm], label=arm)
    right.set_xlabel("step")
    right.set_ylabel("EM in training, mean up to the step (%)")
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8, frameon=False, loc="lower right")
    figure.tight_layout()
    save_figure(figure, file)
    pyplot.close(figure)
