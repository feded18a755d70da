"""`tspo report`: result tables, and one page with curves and trajectories."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tspo_cli import console
from tspo_cli.commands.sweep import report_sweep
from tspo_cli.errors import UsageError

if TYPE_CHECKING:
    from tspo_cli.reporting.tables import Format

FORMATS = ("table", "md", "csv", "latex", "json")


def report(
    paths: Annotated[list[Path], typer.Argument(metavar="RUN_OR_DIR...", help="Run directories, or folders of them.")],
    form: Annotated[
        str | None, typer.Option("--format", help="table, md, csv, latex or json.  [default: table]")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    html: Annotated[
        Path | None, typer.Option("--html", help="Also write one self-contained page to this file.")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option("--baseline", help="Run or algorithm to compare with, item by item.")
    ] = None,
    all_steps: Annotated[
        bool, typer.Option("--all-steps", help="Every evaluation, not only step 0 and the end.")
    ] = False,
    step: Annotated[
        int | None, typer.Option("--step", help="Of a sweep: EM at this step, area up to it. [default: the last]")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option("--figure", help="Of a sweep: draw its learning curves (.svg, .png or .pdf).")
    ] = None,
) -> None:
    """Compare runs: scores before training (step 0) and at the end, with 95 % Wilson intervals over the questions.

    The directory of a sweep gives means over its seeds and differences from its baseline, paired run by run.
    """
    chosen = _chosen_format(form, as_json)
    if report_sweep(paths, chosen.value, baseline, step, figure, runs_too=all_steps or html is not None):
        return

    from tspo_cli.reporting import tables
    from tspo_cli.reporting.baseline import differences
    from tspo_cli.reporting.rows import result_rows
    from tspo_cli.reporting.views import open_runs, unfinished

    views = open_runs(paths)
    rows = result_rows(views, all_steps=all_steps)
    against = differences(rows, views, baseline) if baseline is not None else None
    evaluated = {row.run for row in rows}
    for message in [*unfinished(views), *(f"{v.name}: no evaluation yet" for v in views if v.name not in evaluated)]:
        console.say(message)
    records = tables.records(rows, against)
    console.result(tables.render(records, chosen, width=_width(), color=sys.stdout.isatty()))
    if html is not None:
        from tspo_cli import runs
        from tspo_cli.reporting.page import render_page

        runs.atomic_write_text(html, render_page(views, records))
        console.say(f"page: {html}")


def _chosen_format(form: str | None, as_json: bool) -> Format:
    from tspo_cli.reporting.tables import Format

    if form is not None and form not in FORMATS:
        raise UsageError(f"--format {form}: choose one of {', '.join(FORMATS)}")
    if as_json and form not in (None, "json"):
        raise UsageError(f"--json and --format {form} exclude each other")
    return Format("json" if as_json else form or "table")


def _width() -> int | None:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
