"""`tspo report`: result tables, and one page with curves and trajectories."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tspo_cli import console
from tspo_cli.commands.options import Json, check_figure, check_page
from tspo_cli.errors import UsageError

if TYPE_CHECKING:
    from tspo_cli.reporting.rendering.table import Format

FORMATS = ("table", "md", "csv", "latex", "json")
TABLES = (
    *("rows", "main", "tests", "ablation", "curves", "classes", "questions", "cost", "commands"),
    "all",
)


def report(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN_OR_DIR", help="Runs, folders of `tspo eval`, or folders of these."
        ),
    ],
    form: Annotated[
        str | None,
        typer.Option("--format", help="table, md, csv, latex or json (--json). Default: table."),
    ] = None,
    as_json: Json = False,
    table: Annotated[
        list[str] | None,
        typer.Option(
            "--table",
            help="rows, main (methods by data sets), tests (against --baseline), ablation, curves, "
            "classes (of groups), questions (that came back in training),"
            " cost, commands (that make the numbers again) or all. Repeatable. Default: rows.",
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            "--html", callback=check_page, help="Also write one self-contained page to this file."
        ),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            "--baseline", help="Run, algorithm or method to compare with, item by item. Repeatable."
        ),
    ] = None,
    metric: Annotated[
        str,
        typer.Option(
            "--metric",
            help="Score of the items in main, tests and ablation: em, f1, gold_recall, ...",
        ),
    ] = "em",
    published: Annotated[
        list[str] | None,
        typer.Option(
            "--published",
            metavar="WORDS",
            help="Also show published results with these words (3B, 'Search-R1 7B', all).",
        ),
    ] = None,
    intervals: Annotated[
        bool,
        typer.Option(
            "--intervals/--no-intervals", help="95 % intervals below the scores of the main table."
        ),
    ] = True,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            "--ignore",
            metavar="KEY",
            help="Runs that differ in this setting alone are one arm, too.",
        ),
    ] = None,
    items: Annotated[
        int, typer.Option("--items", min=0, help="Items on the page, of every evaluation. 0: all.")
    ] = 200,
    all_steps: Annotated[
        bool, typer.Option("--all-steps", help="Every evaluation, not only step 0 and the end.")
    ] = False,
    step: Annotated[
        int | None,
        typer.Option(
            "--step", help="Of a sweep: EM at this step, area up to it. Default: the last."
        ),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(
            "--figure",
            callback=check_figure,
            help="Draw learning curves: means and intervals over seeds (.svg, .png or .pdf).",
        ),
    ] = None,
) -> None:
    """Compare runs and evaluations in tables, figures and an HTML page.

    Runs that differ only in their seed are one row of main, ablation, curves and classes. `--table
    main --json` gives every interval, difference and p-value behind the marks. The directory of a
    sweep gives means over its seeds and differences from its baseline, paired run by run.
    """
    chosen = _chosen_format(form, as_json)
    tables = _chosen_tables(table)

    from tspo_cli.reporting.open_report import ReportRequest, open_report
    from tspo_cli.reporting.sources.run_view import examined_by_doctor

    with examined_by_doctor(paths):
        opened = open_report(
            ReportRequest(
                paths=paths,
                tables=tables,
                baselines=baseline or [],
                metric=metric,
                published=published or [],
                intervals=intervals,
                ignore=ignore or [],
                all_steps=all_steps,
                step=step,
                of_runs=all_steps or html is not None or bool(table),
            )
        )
        text = opened.text(chosen, width=console.width(), color=sys.stdout.isatty())
        # Files first: a reader of the output may close it early.
        if figure is not None:
            opened.draw(figure)
            console.say(f"figure: {figure}")
        if html is not None:
            from tspo_cli.reporting.page.page import write_page

            write_page(opened, html, items=items)
            console.say(f"page: {html}")
        for message in opened.messages():
            console.say(message)
    console.result(text, styled=True)


def _chosen_tables(names: list[str] | None) -> list[str]:
    for name in names or []:
        if name not in TABLES:
            raise UsageError(f"--table {name}: choose one of {', '.join(TABLES)}")
    return ["all"] if names and "all" in names else list(dict.fromkeys(names or ["rows"]))


def _chosen_format(form: str | None, as_json: bool) -> Format:
    from tspo_cli.reporting.rendering.table import Format

    if form is not None and form not in FORMATS:
        raise UsageError(f"--format {form}: choose one of {', '.join(FORMATS)}")
    if as_json and form not in (None, "json"):
        raise UsageError(f"--json and --format {form} exclude each other")
    return Format("json" if as_json else form or "table")
