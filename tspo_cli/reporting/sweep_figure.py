"""The learning curves of a sweep: mean over runs with the 95 % t band, one line per group."""

from __future__ import annotations

from pathlib import Path

from tspo_cli.errors import UsageError
from tspo_cli.reporting.sweeps import SweepRun, SweepView, mean_interval

FORMATS = (".svg", ".png", ".pdf")


def check_figure_path(path: Path) -> None:
    """Raises UsageError for a name that ends in no known format."""
    if path.suffix not in FORMATS:
        raise UsageError(f"{path}: a figure's name ends in {', '.join(FORMATS)}")


def draw_curves(sweep: SweepView, path: Path, title: str = "") -> None:
    """Write the figure to `path` (SVG, PNG or PDF by its ending). Thin lines are single runs.

    Raises:
        UsageError: an ending that is none of these.
    """
    check_figure_path(path)
    import matplotlib

    matplotlib.use("Agg")
    # A fixed salt and no date: equal data give an equal SVG.
    matplotlib.rcParams["svg.hashsalt"] = "tspo"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7.2, 4.4))
    for place, (label, members) in enumerate(_groups(sweep).items()):
        color = f"C{place % 10}"
        style = "-" if place < 10 else "--"
        steps = sorted(set.intersection(*({step for step, _ in run.curve} for run in members)))
        means = [mean_interval([dict(run.curve)[step] for run in members]) for step in steps]
        for run in members:
            axes.plot(*zip(*((step, 100 * em) for step, em in run.curve), strict=True), color=color, lw=0.5, alpha=0.35)
        axes.plot(steps, [100 * one.mean for one in means], style, color=color, lw=2, label=f"{label} ({len(members)})")
        band = [(step, one.low, one.high) for step, one in zip(steps, means, strict=True) if one.low is not None]
        if band:
            lows = [100 * max(0.0, low or 0.0) for _, low, _ in band]
            highs = [100 * min(1.0, high or 0.0) for _, _, high in band]
            axes.fill_between([step for step, _, _ in band], lows, highs, color=color, alpha=0.12, lw=0)
    axes.set_xlabel("training step")
    axes.set_ylabel(f"exact match on {sweep.runs[0].dataset} (%)")
    axes.set_ylim(bottom=0)
    axes.set_title(title or f"{sweep.path.name}: mean and 95 % interval over runs", fontsize=10)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def _groups(sweep: SweepView) -> dict[str, list[SweepRun]]:
    groups: dict[str, list[SweepRun]] = {}
    for run in sweep.runs:
        if run.finished:
            options = " ".join(f"{key.rpartition('.')[2]}={run.place[key]}" for key in sweep.options)
            groups.setdefault(f"{run.arm} {options}".strip(), []).append(run)
    return groups
