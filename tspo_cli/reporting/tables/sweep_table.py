"""A sweep's summaries as a table for people (terminal, Markdown, LaTeX), as CSV, and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from tspo_cli.evaluation.statistics.over_seeds import Mean, Paired
from tspo_cli.reporting.rendering.render import csv_text, render
from tspo_cli.reporting.rendering.table import Column, Format, Table, bounds, cells, number, p_text
from tspo_cli.reporting.scores.sweep_scores import GroupSummary, SweepRun, SweepView
from tspo_cli.text.printable import printable_values
from tspo_cli.text.strict_json import json_text

Shown = tuple[str, Callable[[GroupSummary], str]]


def render_sweep(
    sweep: SweepView,
    groups: Sequence[GroupSummary],
    form: Format,
    *,
    explained: bool = True,
    width: int | None = None,
    color: bool = False,
) -> str:
    """`groups` as table, md, csv, latex or json. JSON also has every run and evaluation.
    `explained`: a note below the table says what its numbers are. `width` and `color` concern the
    terminal.
    """
    if form == "json":
        return json_text(sweep_record(sweep, groups), indent=2)
    if form == "csv":
        import pandas

        records = printable_values([asdict(group) for group in groups])
        return csv_text(pandas.json_normalize(records))
    shown = _columns(sweep, groups)
    table = Table(
        name="sweep",
        title=f"{sweep.path.name}: means over runs",
        columns=tuple(Column(head, numeric=place > 0) for place, (head, _) in enumerate(shown)),
        rows=tuple(cells([cell(group) for _, cell in shown]) for group in groups),
        records=[asdict(group) for group in groups],
        notes=(explanation(sweep),) if explained else (),
        commands=tuple(run.view.command for run in sweep.runs if run.view.command),
    )
    return render([table], form, width=width, color=color)


def sweep_record(sweep: SweepView, groups: Sequence[GroupSummary]) -> dict[str, Any]:
    """`rows`: all evaluations of all runs; `sweep`: the groups, and the runs with their curves."""
    runs = [
        {
            "run": run.view.name,
            "arm": run.arm,
            "place": dict(run.place),
            "seed": run.seed,
            "state": run.view.state,
            "curve": [list(point) for point in run.curve],
            "auc": run.auc_until(run.curve[-1][0]),
            "tokens": run.tokens,
            "cpu_seconds": run.cpu_seconds,
        }
        for run in sweep.runs
    ]
    return {
        "rows": [row for run in sweep.runs for row in _rows(run)],
        "sweep": {
            "path": str(sweep.path),
            "baseline": sweep.baseline,
            "waiting": list(sweep.waiting),
            "groups": [asdict(group) for group in groups],
            "runs": runs,
        },
    }


def _rows(run: SweepRun) -> list[dict[str, Any]]:
    settings = {
        "run": run.view.name,
        "algorithm": run.view.algorithm,
        "seed": run.seed,
        "lr": run.view.setting("optimizer.lr"),
    }
    names = (
        "dataset",
        "n",
        "em",
        "f1",
        "answer_in_retrieved",
        "searches",
        "invalid_share",
        "no_answer_share",
        "failed",
    )
    return [
        settings | {"step": step, **{name: scores.get(name) for name in names}}
        for step, scores in run.view.evaluations
    ]


def explanation(sweep: SweepView) -> str:
    """What the numbers of the table are."""
    against = (
        f" Differences: minus {sweep.baseline}, paired by seed and axes, paired t-test."
        if sweep.baseline
        else ""
    )
    return (
        f"{sweep.runs[0].dataset}, n {sweep.runs[0].end['n']}. EM % at the step shown; AUC: mean "
        "EM % along the "
        f"curve up to it. In brackets: 95 % t interval over runs.{against} Searches and no answer: "
        "of the last evaluation. Tokens (sampled) and CPU s: of a whole training."
    )


def _columns(sweep: SweepView, groups: Sequence[GroupSummary]) -> list[Shown]:
    columns: list[Shown] = [("arm", lambda group: group.arm)]
    columns += [(key, lambda group, key=key: group.options[key]) for key in sweep.options]  # type: ignore[misc]
    columns += [
        ("runs", lambda group: str(group.em.n)),
        ("step", lambda group: str(group.step)),
        ("EM", lambda group: _mean(group.em)),
        ("EM diff.", lambda group: _difference(group.delta_em)),
        ("p", lambda group: _p(group.delta_em)),
        ("AUC", lambda group: _mean(group.auc)),
        ("AUC diff.", lambda group: _difference(group.delta_auc)),
        ("p (AUC)", lambda group: _p(group.delta_auc)),
        ("searches", lambda group: number(group.searches, "{:.2f}")),
        ("no answer %", lambda group: number(group.no_answer_share, "{:.1f}", 100)),
        ("tokens", lambda group: f"{group.tokens / 1000:.0f}k"),
        ("CPU s", lambda group: number(group.cpu_seconds, "{:.0f}")),
    ]
    return [(head, cell) for head, cell in columns if any(cell(group) for group in groups)]


def _mean(value: Mean | None) -> str:
    return (
        "" if value is None else f"{100 * value.mean:.1f} {bounds(value.low, value.high)}".rstrip()
    )


def _difference(value: Paired | None) -> str:
    return (
        ""
        if value is None
        else f"{100 * value.mean:+.1f} {bounds(value.low, value.high, '{:+.1f}')}".rstrip()
    )


def _p(value: Paired | None) -> str:
    return "" if value is None else p_text(value.p)
