"""Figures of the evidence, from the rows of results.csv alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from experiments.evidence.tables import Row, area_pairs
from tspo_cli.evaluation.statistics.over_seeds import paired_difference
from tspo_cli.reporting.figure import draw_sweep, load_pyplot, save_figure
from tspo_cli.reporting.scores.sweep_scores import SweepView

_BASELINES = {"grpo": ("GRPO", "C0", 0.14), "tspo": ("TSPO", "C1", -0.14)}
"""What arms are compared with: its name, colour, and height above the arm's line."""


def draw_curves(sweep: SweepView, file: Path, *, without: Sequence[str] = ()) -> None:
    """Draw EM over training of a sweep's arms, but for those of `without`."""
    runs = tuple(run for run in sweep.runs if run.arm not in without)
    draw_sweep(dataclasses.replace(sweep, runs=runs), file)


def draw_differences(rows: Sequence[Row], name: str, arms: Sequence[str], file: Path) -> None:
    """Draw the difference in area of each of `arms` to GRPO and to TSPO in the experiment `name`:
    mean and 95 % t interval over pairs, in points.
    """
    pyplot = load_pyplot()
    figure, axes = pyplot.subplots(figsize=(7.2, 0.8 + 0.36 * len(arms)))
    for other, (label, color, height) in _BASELINES.items():
        tests = {
            place: paired_difference(pairs)
            for place, arm in enumerate(reversed(arms))
            if (pairs := area_pairs(rows, name, arm, other))
        }
        for place, test in tests.items():
            low, high = (test.mean if edge is None else edge for edge in (test.low, test.high))
            axes.plot([100 * low, 100 * high], [place + height] * 2, color=color, lw=1.5)
        axes.plot(
            [100 * test.mean for test in tests.values()],
            [place + height for place in tests],
            "o",
            color=color,
            ms=5,
            label=f"minus {label}",
        )
    axes.axvline(0, color="0.4", lw=1)
    axes.set_yticks(range(len(arms)), list(reversed(arms)))
    axes.set_xlabel("difference in area under the EM curve (points), 95 % interval over pairs")
    axes.grid(alpha=0.25, axis="x")
    axes.legend(fontsize=8, frameon=False, loc="lower left")
    figure.tight_layout()
    save_figure(figure, file)
    pyplot.close(figure)
