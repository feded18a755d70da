"""Learning curves as a figure for a paper: mean over runs with the 95 % t band, single runs thin
behind it.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tspo_cli.console import warn
from tspo_cli.disk import atomic_write_bytes
from tspo_cli.errors import MissingResourceError, UsageError
from tspo_cli.evaluation.statistics.over_seeds import mean_interval
from tspo_cli.reporting.scores.sweep_scores import SweepView
from tspo_cli.reporting.sources.arms import Arm
from tspo_cli.text.printable import one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LINES_WITH_ROOM = 6
"""With more lines the legend would cover them: it stands beside the panel."""
FORMATS = (".svg", ".png", ".pdf")
Curve = Sequence[tuple[int, float]]
"""(step, EM) of one run, by step."""
Panel = Mapping[str, Sequence[Curve]]
"""The runs of every line by its label."""


def check_figure_path(path: Path) -> None:
    """Raises UsageError for a name that ends in no known format."""
    if path.suffix not in FORMATS:
        raise UsageError(f"{path}: a figure's name ends in {', '.join(FORMATS)}")


def draw_sweep(sweep: SweepView, path: Path) -> None:
    """Write the curves of a sweep's groups to `path` (SVG, PNG or PDF by its ending).

    Raises:
        UsageError: an ending that is none of these.
    """
    lines: dict[str, list[Curve]] = {}
    for run in sweep.runs:
        if run.finished:
            options = " ".join(
                f"{key.rpartition('.')[2]}={run.place[key]}" for key in sweep.options
            )
            lines.setdefault(f"{run.arm} {options}".strip(), []).append(run.curve)
    _draw({sweep.runs[0].dataset: lines}, path, f"{sweep.path.name}: ")


def draw_arms(arms: Sequence[Arm], path: Path) -> None:
    """Write the curves of trained arms to `path`, a panel for every data set; supervised runs only
    where all are.

    Raises:
        UsageError: an ending that is no format.
        MissingResourceError: no run was evaluated at two steps.
    """
    trained = [arm for arm in arms if not arm.is_evaluation]
    chosen = [arm for arm in trained if arm.views[0].algorithm != "sft"] or trained
    panels: dict[str, dict[str, list[Curve]]] = {}
    for arm in chosen:
        for view in arm.views:
            by_set: dict[str, list[tuple[int, float]]] = {}
            for step, scores in view.evaluations:
                if scores["em"] is not None:
                    points = by_set.setdefault(str(scores["dataset"]), [])
                    points.append((step, float(scores["em"])))
            for dataset, curve in by_set.items():
                if len(curve) > 1:
                    panels.setdefault(dataset, {}).setdefault(arm.label, []).append(curve)
    if not panels:
        raise MissingResourceError(
            "--figure: no training run here was evaluated at two steps or more"
        )
    _draw(panels, path)


def _draw(panels: Mapping[str, Panel], path: Path, subject: str = "") -> None:
    check_figure_path(path)
    pyplot = load_pyplot()
    lines_of = [runs for lines in panels.values() for runs in lines.values()]
    has_bands = any(len(runs) > 1 for runs in lines_of)
    most_lines = max(len(lines) for lines in panels.values())
    width = 7.2 if len(panels) == 1 else 4.6 * len(panels)
    if most_lines > _LINES_WITH_ROOM:
        width += 2.2 * len(panels)
    figure, every = pyplot.subplots(1, len(panels), figsize=(width, 4.4), squeeze=False)
    for axes, (dataset, lines) in zip(every[0], panels.items(), strict=True):
        for place, (label, runs) in enumerate(lines.items()):
            _draw_line(axes, label, runs, f"C{place % 10}", "-" if place < 10 else "--")
        axes.set_xlabel("training step")
        axes.set_ylabel(f"exact match on {one_line(dataset)} (%)")
        axes.set_ylim(0, max(1, axes.get_ylim()[1]))  # of zeros alone it would end at 0.05 %
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25)
        if len(lines) > _LINES_WITH_ROOM:
            axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1.01, 1))
        else:
            axes.legend(fontsize=8, frameon=False)
    what = "mean and 95 % interval over runs" if has_bands else "single runs"
    figure.suptitle(subject + what, fontsize=10)
    with harm_told(path):
        figure.tight_layout()
        save_figure(figure, path)
    pyplot.close(figure)


def load_pyplot() -> Any:
    """matplotlib's pyplot, for drawing into files. It has the user's own settings, but not those of
    a `matplotlibrc` in the working directory, in which a foreign run may lie: they name programs.
    """
    with suppress(FileNotFoundError), chdir(Path(__file__).parent):  # deleted, it has no such file
        import matplotlib  # which reads the settings
    import matplotlib

    matplotlib.use("Agg")
    # A fixed salt and no date: equal data give an equal SVG.
    matplotlib.rcParams["svg.hashsalt"] = "tspo"
    matplotlib.rcParams["text.parse_math"] = False  # a name with $ is a name
    from matplotlib import pyplot

    return pyplot


@contextmanager
def harm_told(path: Path) -> Iterator[None]:
    """Say in one line each, and not in matplotlib's many, what of the names the figure `path` that
    the block draws cannot show.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    said = ""
    for warning in caught:
        said += (text := str(warning.message))
        if "Glyph" not in text and "layout" not in text:
            warnings.warn_explicit(
                warning.message, warning.category, warning.filename, warning.lineno
            )
    if "Glyph" in said:
        warn(
            f"{path}: the font lacks characters of the names, and boxes stand for them; set "
            "font.family in your matplotlibrc to a font that has them"
        )
    if "layout" in said:
        warn(f"{path}: the names are too long for the figure; choose shorter ones")


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure in the form that its suffix names, whole or not at all. An SVG has no date."""
    drawn = io.BytesIO()
    date = {"Date": None} if path.suffix == ".svg" else None
    figure.savefig(drawn, format=path.suffix[1:], dpi=150, metadata=date)
    atomic_write_bytes(path, drawn.getvalue())


def _in_legend(label: str) -> str:
    """A label that the legend shows: matplotlib leaves out those that begin with an underscore."""
    return f" {label}" if label.startswith("_") else label


def _draw_line(axes: Any, label: str, runs: Sequence[Curve], color: str, style: str) -> None:
    steps = sorted(set.intersection(*({step for step, _ in run} for run in runs)))
    means = [mean_interval([dict(run)[step] for run in runs]) for step in steps]
    for run in runs:
        axes.plot(
            *zip(*((step, 100 * em) for step, em in run), strict=True),
            color=color,
            lw=0.5,
            alpha=0.35,
        )
    axes.plot(
        steps,
        [100 * mean.mean for mean in means],
        style,
        color=color,
        lw=2,
        label=f"{_in_legend(one_line(label))} ({len(runs)})",
    )
    band = [
        (step, mean.low, mean.high)
        for step, mean in zip(steps, means, strict=True)
        if mean.low is not None
    ]
    if band and len(runs) > 2:  # of two runs the interval is as wide as the figure
        lows = [100 * max(0.0, low or 0.0) for _, low, _ in band]
        highs = [100 * min(1.0, high or 0.0) for _, _, high in band]
        axes.fill_between([step for step, _, _ in band], lows, highs, color=color, alpha=0.12, lw=0)
