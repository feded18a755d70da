"""Open the report of runs, of evaluations or of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tspo_cli.config.sweeps.sweep_record import is_sweep
from tspo_cli.errors import UsageError
from tspo_cli.evaluation.item_record import ITEM_SCORES
from tspo_cli.reporting.run_report import RunReport
from tspo_cli.reporting.scores.sweep_scores import baseline_run, open_sweep
from tspo_cli.reporting.sources.published import choose_published, read_published
from tspo_cli.reporting.sources.run_view import open_runs
from tspo_cli.reporting.sweep_report import SweepReport


@dataclass(frozen=True, kw_only=True)
class ReportRequest:
    """What to report.

    `published` are words that choose published rows; `step` is for sweeps. `of_runs` asks for the
    runs of a sweep one by one instead of its means over seeds.
    """

    paths: Sequence[Path]
    tables: Sequence[str] = ("rows",)
    baselines: Sequence[str] = ()
    metric: str = "em"
    published: Sequence[str] = ()
    intervals: bool = True
    ignore: Sequence[str] = ()
    all_steps: bool = False
    step: int | None = None
    of_runs: bool = False


def open_report(request: ReportRequest) -> RunReport | SweepReport:
    """The report of one sweep directory, or of runs and evaluations.

    Raises:
        MissingResourceError: a path holds no run, or a name means none.
        UsageError: `step` without a sweep, a baseline that is no arm of it, or a metric or setting
            to ignore that no run here has.
        InvalidInputError: a file of a run that cannot be read.
    """
    sweep = request.paths[0] if len(request.paths) == 1 and is_sweep(request.paths[0]) else None
    if sweep is None and request.step is not None:
        raise UsageError("--step is for one directory of `tspo sweep`")
    if sweep is not None and not request.of_runs:
        baseline = request.baselines[0] if request.baselines else None
        return SweepReport(open_sweep(sweep, baseline), request.step)
    default = baseline_run(sweep) if sweep is not None else None
    words = list(request.published)
    views = open_runs(list(request.paths))
    _require_metric(request.metric)
    for key in request.ignore:
        if not any(view.setting(key) is not None for view in views):
            raise UsageError(f"--ignore {key}: no run here has a setting of that name")
    return RunReport(
        views,
        baselines=request.baselines or ([default] if default else []),
        metric=request.metric,
        published=choose_published(read_published(), words, request.metric) if words else [],
        intervals=request.intervals,
        all_steps=request.all_steps,
        ignore=request.ignore,
        shown=request.tables,
        sweep=sweep,
    )


def _require_metric(metric: str) -> None:
    if metric not in ITEM_SCORES:
        raise UsageError(f"--metric {metric}: choose one of {', '.join(ITEM_SCORES)}")
