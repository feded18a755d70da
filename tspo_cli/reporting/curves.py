"""Which learning curves a report shows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tspo_cli.reporting.charts import COLORS, Chart, Line, smooth, svg
from tspo_cli.reporting.rows import wilson
from tspo_cli.reporting.views import RunView

# Metric, title, whether it is a share; one chart each, of all RL runs that log it.
_METRICS = (
    ("reward", "Training reward", False),
    ("searches", "Searches per training rollout", False),
    ("groups/zero_signal_grpo", "Groups with equal outcomes: no signal for GRPO", True),
    ("groups/recovered_by_folr", "Groups that first-occurrence rewards give a signal", True),
    ("entropy", "Policy entropy (nats per token)", False),
    ("kl", "KL to the starting policy (nats)", False),
)
CLASSES = (
    ("groups/all_correct", "all correct"),
    ("groups/mixed", "mixed"),
    ("groups/all_wrong_near_miss", "all wrong with near-miss"),
    ("groups/all_miss", "all miss"),
)


@dataclass(frozen=True, slots=True)
class Figure:
    """One drawn chart: title, SVG, and its legend as (CSS class, name)."""

    title: str
    svg: str
    legend: tuple[tuple[str, str], ...]
    note: str = ""


def figures(views: Sequence[RunView]) -> list[Figure]:
    """EM on each data set, training metrics, then the composition of groups of every RL run. Empty charts are left out.

    Supervised and RL runs do not share charts: their steps mean different things.
    """
    colors = {view.name: index for index, view in enumerate(views)}
    logs = {view.name: view.metrics() for view in views}
    trained = [view for view in views if view.algorithm != "sft"]
    supervised = [view for view in views if view.algorithm == "sft"]
    charts = [*_exact_match(trained, colors, ""), *_exact_match(supervised, colors, ", supervised runs")]
    charts += [_metric(trained, logs, colors, *metric) for metric in _METRICS]
    charts.append(_metric(supervised, logs, colors, "loss", "Loss of supervised runs (nats per token)", False))
    lines = [_figure(chart) for chart in charts if chart.lines]
    return lines + [_composition(view.name, logs[view.name]) for view in trained if _has_classes(logs[view.name])]


def _exact_match(views: Sequence[RunView], colors: dict[str, int], suffix: str) -> list[Chart]:
    scores = [(view, step, score) for view in views for step, score in view.evaluations()]
    charts = []
    for dataset in dict.fromkeys(str(score.get("dataset", "")) for _, _, score in scores):
        lines = []
        for view in views:
            own = [
                (float(step), float(score["em"]), int(score.get("n") or 0))
                for owner, step, score in scores
                if owner is view and score.get("dataset") == dataset and _finite(score.get("em"))
            ]
            if len(own) > 1 or (own and not suffix):
                bounds = [(step, *wilson(em, n)) for step, em, n in own]
                band = tuple((x, low, high) for x, low, high in bounds if low is not None and high is not None)
                points = tuple((step, em) for step, em, _ in own)
                lines.append(Line(view.name, colors[view.name], points, band if len(band) > 1 else (), markers=True))
        charts.append(Chart(f"Exact match on {dataset}{suffix}", "training step", "EM", tuple(lines), percent=True))
    return charts


def _metric(
    views: Sequence[RunView], logs: dict[str, Any], colors: dict[str, int], key: str, title: str, percent: bool
) -> Chart:
    lines = []
    for view in views:
        points = _series(logs[view.name], key)
        if points and (key != "kl" or any(y for _, y in points)):
            lines.append(Line(view.name, colors[view.name], smooth(points), faint=points))
    return Chart(title, "training step", key, tuple(lines), percent=percent)


def _series(log: Sequence[dict[str, Any]], key: str) -> tuple[tuple[float, float], ...]:
    return tuple((float(record["step"]), float(record[key])) for record in log if _finite(record.get(key)))


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _has_classes(log: Sequence[dict[str, Any]]) -> bool:
    return any(all(_finite(record.get(key)) for key, _ in CLASSES) for record in log)


def _figure(chart: Chart) -> Figure:
    legend = tuple((f"c{line.color % COLORS}", line.name) for line in chart.lines)
    bands = any(line.band for line in chart.lines)
    faint = any(line.faint for line in chart.lines)
    note = "Band: 95 % Wilson interval over the questions." if bands else ""
    return Figure(chart.title, svg(chart), legend, "Thin: every step; bold: moving mean." if faint else note)


def _composition(name: str, log: Sequence[dict[str, Any]]) -> Figure:
    whole = [record for record in log if all(_finite(record.get(key)) for key, _ in CLASSES)]
    lines = tuple(Line(label, index, smooth(_series(whole, key))) for index, (key, label) in enumerate(CLASSES))
    chart = Chart(f"Composition of groups: {name}", "training step", "share", lines, stacked=True)
    return Figure(chart.title, svg(chart), tuple((f"k{line.color}", line.name) for line in lines), "Moving means.")
