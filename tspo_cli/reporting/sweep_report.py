"""The report of a sweep: means over its seeds, and differences from its baseline."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tspo_cli.console import agreeing
from tspo_cli.reporting.rendering.table import Format
from tspo_cli.reporting.scores.sweep_scores import GroupSummary, SweepView, left_out, summaries
from tspo_cli.reporting.sources.run_view import failed_searches
from tspo_cli.reporting.tables.sweep_table import render_sweep, sweep_record


@dataclass(frozen=True)
class SweepReport:
    """A report of the finished cells of a sweep, at training step `step` (None: the last one)."""

    sweep: SweepView
    step: int | None = None

    @cached_property
    def groups(self) -> list[GroupSummary]:
        """One summary per arm and combination of the option grid."""
        return summaries(self.sweep, self.step)

    def messages(self) -> list[str]:
        """The cells that are missing, the runs that a mean lacks, and the evaluations in which
        searches failed.
        """
        missing = [
            f"{agreeing(len(names), 'cell is', 'cells are')} {why} and left out: {', '.join(names)}"
            for names, why in (
                (self.sweep.waiting, "not finished"),
                (self.sweep.unevaluated, "finished without an evaluation"),
            )
            if names
        ]
        shown = [run.view for run in self.sweep.runs if run.finished]
        return [*missing, *left_out(self.sweep, self.groups), *failed_searches(shown)]

    def text(self, form: Format, *, width: int | None = None, color: bool = False) -> str:
        """The table, in parts where the terminal is narrow, or the JSON record."""
        return render_sweep(self.sweep, self.groups, form, width=width, color=color)

    def record(self) -> dict[str, Any]:
        """Every run with its evaluations, and the groups."""
        return sweep_record(self.sweep, self.groups)

    def draw(self, path: Path) -> None:
        """Write the learning curves to `path` (.svg, .png or .pdf)."""
        from tspo_cli.reporting.figure import draw_sweep

        draw_sweep(self.sweep, path)
