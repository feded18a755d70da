"""`tspo report`: result tables, and one page with curves and trajectories."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tspo_cli import console
from tspo_cli.commands.options import Json
from tspo_cli.commands.sweep import report_sweep
from tspo_cli.errors import UsageError

if TYPE_CHECKING:
    from tspo_cli.reporting.open_report import Report
    from tspo_cli.reporting.tables.table import Format

FORMATS = ("table", "md", "csv", "latex", "json")
TABLES = ("rows", "main", "tests", "ablation", "curves", "classes", "cost", "commands", "all")


def report(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN_OR_DIR...", help="Runs, folders of `tspo eval`, or folders of these."
        ),
    ],
    form: Annotated[
        str | None,
        typer.Option("--format", help="table, md, csv, latex or json (--json).  [default: table]"),
    ] = None,
    as_json: Json = False,
    table: Annotated[
        list[str] | None,
        typer.Option(
            "--table",
            help="rows, main (methods by data sets), tests (against --baseline), ablation, curves, "
            "classes (of groups),"
            " cost, commands (that make the numbers again) or all. Repeatable.  [default: rows]",
        ),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Also write one self-contained page to this file.")
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
            help="Set published rows with these words (3B, 'Search-R1 7B', all) beside.",
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
            "--step", help="Of a sweep: EM at this step, area up to it. [default: the last]"
        ),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(
            "--figure",
            help="Draw learning curves: means and intervals over seeds (.svg, .png or .pdf).",
        ),
    ] = None,
) -> None:
    """Compare runs and evaluations in tables, figures and an HTML page.

    Runs that differ only in their seed are one row of main, ablation, curves and classes. `--table
    main --json` gives every interval, difference and p-value behind the letters. The directory of a
    sweep gives means over its seeds and differences from its baseline, paired run by run.
    """
    chosen = _chosen_format(form, as_json)
    only = baseline[0] if baseline else None
    names = _chosen_tables(table)
    ordinary = all_steps or html is not None or bool(table)
    if report_sweep(paths, chosen.value, only, step, figure, runs_too=ordinary):
        return

    from tspo_cli.reporting.open_report import Report
    from tspo_cli.reporting.scores.sweep_scores import baseline_run, is_sweep
    from tspo_cli.reporting.sources.published import choose_published, read_published
    from tspo_cli.reporting.sources.run_view import open_runs, unfinished
    from tspo_cli.reporting.tables.render import render

    views = open_runs(paths)
    sweep = paths[0] if len(paths) == 1 and is_sweep(paths[0]) else None
    default = None if sweep is None else baseline_run(sweep)
    found = Report(
        views,
        baselines=baseline or ([default] if default else []),
        metric=metric,
        published=choose_published(read_published(), published, metric) if published else [],
        intervals=intervals,
        all_steps=all_steps,
        ignore=ignore or [],
    )
    evaluated = {row.run for row in found.rows}
    for message in [
        *unfinished(views),
        *(f"{v.name}: no evaluation yet" for v in views if v.name not in evaluated),
    ]:
        console.say(message)
    if names == ["all"]:
        names = found.possible()
    if chosen == "json":
        text = json.dumps(_json(found, names), ensure_ascii=False, indent=2)
    else:
        text = render(
            [found.table(name) for name in names], chosen, width=_width(), color=sys.stdout.isatty()
        )
    # Files first: whoever reads only the head of the output closes it early.
    _write_files(found, None if sweep else figure, html, items)
    console.result(text)


def _write_files(found: Report, figure: Path | None, html: Path | None, items: int) -> None:
    if figure is not None:
        from tspo_cli.reporting.figure import draw_arms

        draw_arms(found.arms, figure)
        console.say(f"figure: {figure}")
    if html is not None:
        from tspo_cli import runs
        from tspo_cli.reporting.page.page import render_page

        runs.atomic_write_text(html, render_page(found, items=items))
        console.say(f"page: {html}")


def _json(found: Report, names: list[str]) -> dict[str, Any]:
    """`rows` are those of training runs, or where there is no run those of the evaluations; these
    are always beside.
    """
    rows = found.table("rows").records
    evaluations = [row for row in rows if row["evaluation"]]
    return {
        "rows": [row for row in rows if not row["evaluation"]] or evaluations,
        "evaluations": evaluations,
        **{name: found.table(name).records for name in names if name != "rows"},
    }


def _chosen_tables(names: list[str] | None) -> list[str]:
    for name in names or []:
        if name not in TABLES:
            raise UsageError(f"--table {name}: choose one of {', '.join(TABLES)}")
    return ["all"] if names and "all" in names else list(dict.fromkeys(names or ["rows"]))


def _chosen_format(form: str | None, as_json: bool) -> Format:
    from tspo_cli.reporting.tables.table import Format

    if form is not None and form not in FORMATS:
        raise UsageError(f"--format {form}: choose one of {', '.join(FORMATS)}")
    if as_json and form not in (None, "json"):
        raise UsageError(f"--json and --format {form} exclude each other")
    return Format("json" if as_json else form or "table")


def _width() -> int | None:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None
