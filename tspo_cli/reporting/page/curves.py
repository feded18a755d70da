"""The learning curves of the page: which charts it has, and how the seeds of an arm are drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tspo_cli.reporting.page.charts import Chart, Line, Points, line_style, smooth, svg
from tspo_cli.reporting.sources.arms import Arm
from tspo_cli.reporting.sources.curve_data import (
    GROUP_CLASSES,
    SeedScore,
    arm_datasets,
    em_by_step,
    mean_low_high,
    metric_points,
    steps_with_classes,
)


@dataclass(frozen=True, slots=True)
class MetricChart:
    """A chart of one training metric, of all runs that log it. `is_share`: axis in percent."""

    key: str
    title: str
    is_share: bool = False


METRIC_CHARTS = (
    MetricChart("reward", "Training reward"),
    MetricChart("searches", "Searches per training rollout"),
    MetricChart(
        "groups/zero_signal_grpo",
        "Groups with equal outcomes: no signal for GRPO",
        is_share=True,
    ),
    MetricChart(
        "groups/recovered_by_folr",
        "Groups that first-occurrence rewards give a signal",
        is_share=True,
    ),
    MetricChart("entropy", "Policy entropy (nats per token)"),
    MetricChart("kl", "KL to the starting policy (nats)"),
)
SUPERVISED_LOSS = MetricChart("loss", "Loss of supervised runs (nats per token)")
_ONE_SEED = "Band: 95 % interval over the questions."
_MORE_SEEDS = "Line: mean over seeds; band: lowest to highest seed."


@dataclass(frozen=True, slots=True)
class Figure:
    """One drawn chart: title, SVG, and its legend as (CSS classes, name).

    `of_arm` is True for a chart of a single arm.
    """

    title: str
    svg: str
    legend: tuple[tuple[str, str], ...]
    note: str = ""
    of_arm: bool = False


def figures(arms: Sequence[Arm]) -> list[Figure]:
    """EM on each data set, training metrics, then the composition of groups of every RL arm.

    Charts without a line are left out. Supervised and RL runs have separate charts, because their
    steps mean different things.
    """
    colors = {arm.label: index for index, arm in enumerate(arms)}
    trained = [arm for arm in arms if not arm.is_evaluation and arm.views[0].algorithm != "sft"]
    supervised = [arm for arm in arms if arm.views[0].algorithm == "sft"]
    drawn = [_em_figure(trained, dataset, colors) for dataset in _all_datasets(trained)]
    drawn += [
        _em_figure(supervised, dataset, colors, supervised=True)
        for dataset in _all_datasets(supervised)
    ]
    drawn += [_metric_figure(trained, chart, colors) for chart in METRIC_CHARTS]
    drawn.append(_metric_figure(supervised, SUPERVISED_LOSS, colors))
    drawn += [_composition_figure(arm) for arm in trained]
    return [figure for figure in drawn if figure is not None]


def _all_datasets(arms: Sequence[Arm]) -> list[str]:
    return list(dict.fromkeys(dataset for arm in arms for dataset in arm_datasets(arm)))


def _em_figure(
    arms: Sequence[Arm], dataset: str, colors: Mapping[str, int], *, supervised: bool = False
) -> Figure | None:
    """EM of all arms on a data set; a supervised arm needs two evaluated steps to be drawn."""
    lines = []
    for arm in arms:
        by_step = em_by_step(arm, dataset)
        if len(by_step) > 1 or (by_step and not supervised):
            lines.append(_em_line(arm.label, colors[arm.label], by_step))
    suffix = ", supervised runs" if supervised else ""
    chart = Chart(
        f"Exact match on {dataset}{suffix}", "training step", "EM", tuple(lines), percent=True
    )
    return _figure(chart, _band_note(arms))


def _em_line(label: str, color: int, by_step: Sequence[tuple[int, Sequence[SeedScore]]]) -> Line:
    points = tuple(
        (float(step), mean_low_high([score.em for score in scores])[0]) for step, scores in by_step
    )
    band = tuple((float(step), *_band(scores)) for step, scores in by_step)
    return Line(label, color, points, band if len(band) > 1 else (), markers=True)


def _band(scores: Sequence[SeedScore]) -> tuple[float, float]:
    """Lowest and highest seed, or the interval of a single one over its questions."""
    if len(scores) == 1:
        return scores[0].low, scores[0].high
    return mean_low_high([score.em for score in scores])[1:]


def _band_note(arms: Sequence[Arm]) -> str:
    several = [len(arm.views) > 1 for arm in arms]
    if all(several):
        return _MORE_SEEDS
    return f"{_ONE_SEED} {_MORE_SEEDS}" if any(several) else _ONE_SEED


def _metric_figure(
    arms: Sequence[Arm], metric: MetricChart, colors: Mapping[str, int]
) -> Figure | None:
    """A training metric of all arms that log it; KL is left out where it is 0 throughout."""
    lines = []
    several_seeds = False
    for arm in arms:
        logged = [metric_points(view.metrics, metric.key) for view in arm.views]
        seeds = [points for points in logged if points]
        if not seeds or (metric.key == "kl" and not any(y for points in seeds for _, y in points)):
            continue
        several_seeds = several_seeds or len(seeds) > 1
        lines.append(_metric_line(arm.label, colors[arm.label], seeds))
    note = "Thin: every step; bold: moving mean."
    if several_seeds:
        note = f"Moving means. {_MORE_SEEDS}"
    chart = Chart(metric.title, "training step", metric.key, tuple(lines), percent=metric.is_share)
    return _figure(chart, note)


def _metric_line(label: str, color: int, seeds: Sequence[Points]) -> Line:
    if len(seeds) == 1:
        return Line(label, color, smooth(seeds[0]), faint=seeds[0])
    smoothed = [dict(smooth(points)) for points in seeds]
    steps = _common_steps(smoothed)
    spreads = [mean_low_high([seed[step] for seed in smoothed]) for step in steps]
    return Line(
        label,
        color,
        tuple((step, mean) for step, (mean, _, _) in zip(steps, spreads, strict=True)),
        tuple((step, low, high) for step, (_, low, high) in zip(steps, spreads, strict=True)),
    )


def _common_steps(seeds: Sequence[Mapping[float, float]]) -> list[float]:
    return [step for step in seeds[0] if all(step in other for other in seeds)]


def _figure(chart: Chart, note: str) -> Figure | None:
    """The drawn chart, with `note` where it has a band or thin lines; None without lines."""
    if not chart.lines:
        return None
    legend = tuple((line_style(line.color), line.name) for line in chart.lines)
    needs_note = any(line.band or line.faint for line in chart.lines)
    return Figure(chart.title, svg(chart), legend, note if needs_note else "")


def _composition_figure(arm: Arm) -> Figure | None:
    """The shares of the group classes over training, as means over seeds; None without them."""
    logs = [log for view in arm.views if (log := steps_with_classes(view))]
    if not logs:
        return None
    lines = []
    for index, (key, label) in enumerate(GROUP_CLASSES):
        seeds = [dict(metric_points(log, key)) for log in logs]
        mean = tuple(
            (step, sum(seed[step] for seed in seeds) / len(seeds)) for step in _common_steps(seeds)
        )
        lines.append(Line(label, index, smooth(mean)))
    if not lines[0].points:
        return None
    chart = Chart(
        f"Composition of groups: {arm.label}", "training step", "share", tuple(lines), stacked=True
    )
    legend = tuple((f"k{line.color}", line.name) for line in lines)
    note = "Moving means over all seeds." if len(logs) > 1 else "Moving means."
    return Figure(chart.title, svg(chart), legend, note, of_arm=True)
