"""Which learning curves a report shows, seeds of an arm drawn as one line with a band."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tspo_cli.reporting.page.charts import Chart, Line, Points, line_style, smooth, svg
from tspo_cli.reporting.scores.end_rows import wilson
from tspo_cli.reporting.sources.arms import Arm
from tspo_cli.reporting.sources.run_view import RunView
from tspo_cli.reporting.tables.table import Column, Table, cells, percent

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
_ONE_SEED = "Band: 95 % Wilson interval over the questions."
_MORE_SEEDS = "Line: mean over seeds; band: lowest to highest seed."


@dataclass(frozen=True, slots=True)
class Figure:
    """One drawn chart: title, SVG, and its legend as (CSS classes, name). `of_arm`: about a single
    arm.
    """

    title: str
    svg: str
    legend: tuple[tuple[str, str], ...]
    note: str = ""
    of_arm: bool = False


def figures(arms: Sequence[Arm]) -> list[Figure]:
    """EM on each data set, training metrics, then the composition of groups of every RL arm. Empty
    charts are left out.

    Supervised and RL runs do not share charts: their steps mean different things.
    """
    colors = {arm.label: index for index, arm in enumerate(arms)}
    logs = {view.name: view.metrics() for arm in arms for view in arm.views}
    trained = [arm for arm in arms if not arm.is_evaluation and arm.views[0].algorithm != "sft"]
    supervised = [arm for arm in arms if arm.views[0].algorithm == "sft"]
    charts = [
        *_exact_match(trained, colors, ""),
        *_exact_match(supervised, colors, ", supervised runs"),
    ]
    charts += [_metric(trained, logs, colors, *metric) for metric in _METRICS]
    charts.append(
        _metric(supervised, logs, colors, "loss", "Loss of supervised runs (nats per token)", False)
    )
    lines = [_figure(chart, note) for chart, note in charts if chart.lines]
    return lines + [figure for arm in trained for figure in _composition(arm, logs)]


def curves_table(arms: Sequence[Arm]) -> Table:
    """EM over training: one line per arm, data set and evaluated step, with the spread over
    seeds.
    """
    records: list[dict[str, Any]] = []
    for arm in arms:
        for dataset in _datasets(arm):
            for step, scores in sorted(_scores_by_step(arm, dataset).items()):
                mean, low, high = _spread([em for em, _ in scores])
                record = {
                    "method": arm.label,
                    "dataset": dataset,
                    "step": step,
                    "seeds": len(scores),
                }
                records.append(record | {"em": mean, "em_lowest": low, "em_highest": high})
    return Table(
        name="curves",
        title="Exact match over training",
        columns=(
            Column("method", False),
            Column("data set", False),
            Column("step"),
            Column("seeds"),
            Column("EM %"),
            Column("lowest seed"),
            Column("highest seed"),
        ),
        rows=tuple(
            cells([one["method"], one["dataset"], str(one["step"]), str(one["seeds"])])
            + cells([percent(one[key]) for key in ("em", "em_lowest", "em_highest")])
            for one in records
        ),
        records=records,
        fields=("method", "dataset", "step", "seeds", "em", "em_lowest", "em_highest"),
    )


def _exact_match(
    arms: Sequence[Arm], colors: dict[str, int], suffix: str
) -> list[tuple[Chart, str]]:
    charts = []
    for dataset in dict.fromkeys(name for arm in arms for name in _datasets(arm)):
        lines = []
        for arm in arms:
            by_step = sorted(_scores_by_step(arm, dataset).items())
            if len(by_step) > 1 or (by_step and not suffix):
                points = tuple(
                    (float(step), _spread([em for em, _ in scores])[0]) for step, scores in by_step
                )
                band = tuple((float(step), *_band(scores)) for step, scores in by_step)
                lines.append(
                    Line(
                        arm.label,
                        colors[arm.label],
                        points,
                        band if len(band) > 1 else (),
                        markers=True,
                    )
                )
        chart = Chart(
            f"Exact match on {dataset}{suffix}", "training step", "EM", tuple(lines), percent=True
        )
        charts.append((chart, _band_note(arms)))
    return charts


def _band_note(arms: Sequence[Arm]) -> str:
    several = [len(arm.views) > 1 for arm in arms]
    return (
        _MORE_SEEDS if all(several) else f"{_ONE_SEED} {_MORE_SEEDS}" if any(several) else _ONE_SEED
    )


def _datasets(arm: Arm) -> list[str]:
    return list(
        dict.fromkeys(
            str(score.get("dataset", "")) for view in arm.views for _, score in view.evaluations()
        )
    )


def _scores_by_step(arm: Arm, dataset: str) -> dict[int, list[tuple[float, int]]]:
    found: dict[int, list[tuple[float, int]]] = {}
    for view in arm.views:
        for step, score in view.evaluations():
            if score.get("dataset") == dataset and _finite(score.get("em")):
                found.setdefault(step, []).append((float(score["em"]), int(score.get("n") or 0)))
    return found


def _band(scores: Sequence[tuple[float, int]]) -> tuple[float, float]:
    if len(scores) == 1:
        low, high = wilson(*scores[0])
        return (scores[0][0] if low is None else low, scores[0][0] if high is None else high)
    return _spread([em for em, _ in scores])[1:]


def _spread(values: Sequence[float]) -> tuple[float, float, float]:
    return sum(values) / len(values), min(values), max(values)


def _metric(
    arms: Sequence[Arm],
    logs: dict[str, Any],
    colors: dict[str, int],
    key: str,
    title: str,
    percent: bool,
) -> tuple[Chart, str]:
    lines = []
    several = False
    for arm in arms:
        seeds = [points for view in arm.views if (points := _series(logs[view.name], key))]
        if not seeds or (key == "kl" and not any(y for points in seeds for _, y in points)):
            continue
        several = several or len(seeds) > 1
        lines.append(_seeds_line(arm.label, colors[arm.label], seeds))
    note = "Moving means. " + _MORE_SEEDS if several else "Thin: every step; bold: moving mean."
    return Chart(title, "training step", key, tuple(lines), percent=percent), note


def _seeds_line(label: str, color: int, seeds: Sequence[Points]) -> Line:
    if len(seeds) == 1:
        return Line(label, color, smooth(seeds[0]), faint=seeds[0])
    smoothed = [dict(smooth(points)) for points in seeds]
    steps = [x for x in smoothed[0] if all(x in other for other in smoothed)]
    return Line(
        label,
        color,
        _over(steps, lambda x: _spread([own[x] for own in smoothed])[0]),
        tuple((x, *_spread([own[x] for own in smoothed])[1:]) for x in steps),
    )


def _over(steps: Sequence[float], value: Callable[[float], float]) -> Points:
    return tuple((x, value(x)) for x in steps)


def _series(log: Sequence[dict[str, Any]], key: str) -> Points:
    return tuple(
        (float(record["step"]), float(record[key])) for record in log if _finite(record.get(key))
    )


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _figure(chart: Chart, note: str) -> Figure:
    legend = tuple((line_style(line.color), line.name) for line in chart.lines)
    drawn = any(line.band or line.faint for line in chart.lines)
    return Figure(chart.title, svg(chart), legend, note if drawn else "")


def _composition(arm: Arm, logs: dict[str, Any]) -> list[Figure]:
    logged = [_whole(view, logs) for view in arm.views]
    logged = [log for log in logged if log]
    if not logged:
        return []
    lines = []
    for index, (key, label) in enumerate(CLASSES):
        seeds = [dict(_series(log, key)) for log in logged]
        steps = [x for x in seeds[0] if all(x in other for other in seeds)]
        mean = tuple((x, sum(own[x] for own in seeds) / len(seeds)) for x in steps)
        lines.append(Line(label, index, smooth(mean)))
    if not lines[0].points:
        return []
    chart = Chart(
        f"Composition of groups: {arm.label}", "training step", "share", tuple(lines), stacked=True
    )
    legend = tuple((f"k{line.color}", line.name) for line in lines)
    note = "Moving means over all seeds." if len(logged) > 1 else "Moving means."
    return [Figure(chart.title, svg(chart), legend, note, of_arm=True)]


def _whole(view: RunView, logs: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        record for record in logs[view.name] if all(_finite(record.get(key)) for key, _ in CLASSES)
    ]
