"""One self-contained HTML page: results, curves, settings, and trajectories to read."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tspo_cli import __version__
from tspo_cli.config.tables import flatten
from tspo_cli.disk import atomic_write_text
from tspo_cli.errors import UsageError
from tspo_cli.reporting.page.curves import figures
from tspo_cli.reporting.page.page_items import GROUPS_PER_STEP, item_data
from tspo_cli.reporting.run_report import TABLES, RunReport
from tspo_cli.reporting.sources.run_view import RunView, judged, unfinished
from tspo_cli.reporting.sweep_report import SweepReport
from tspo_cli.text.printable import printable, printable_values
from tspo_cli.text.secrets import without_secrets
from tspo_cli.text.strict_json import json_text

SCRIPTS = ("trajectory.js", "items.js")


def write_page(report: RunReport | SweepReport, path: Path, *, items: int = 200) -> None:
    """Write the page of a report of runs to `path` (see `render_page`).

    Raises:
        UsageError: the report is about the means of a sweep, which have no page.
    """
    if isinstance(report, SweepReport):
        raise UsageError("--html shows the runs of a sweep; add --table all")
    atomic_write_text(path, printable(render_page(report, items=items)))


def render_page(report: RunReport, *, items: int = 200) -> str:
    """The page of a report with up to `items` (0: all) of every evaluation; equal runs give equal
    text.

    Everything that a run, model or corpus wrote enters as text: escaped by the template, or as data
    that the script puts into text nodes. The policy in its head lets only its own script run and
    nothing load.
    """
    environment = Environment(
        loader=PackageLoader("tspo_cli.reporting.page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.tests["about_published"] = lambda note: note.startswith(("† ", "Sources: "))
    script = '"use strict";\n(() => {\n' + "".join(map(_asset, SCRIPTS)) + "})();\n"
    views = report.views
    data = item_data(views, items)
    possible = report.possible()
    tables = {name: report.table(name) if name in possible else None for name in TABLES}
    trained = [view.name for view in views if not view.is_evaluation]
    several = any(len(arm.views) > 1 and not arm.is_evaluation for arm in report.arms)
    several = several or any(
        estimate.seeds > 1 for scores in report.scored for estimate in scores.estimates.values()
    )
    return environment.get_template("page.html.j2").render(
        script=Markup(script),
        style=Markup(_asset("page.css")),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        version=__version__,
        runs=[_settings(view) for view in views],
        several=several,
        credit=_credit_options([view for view in views if not view.is_evaluation]),
        trained=trained,
        counts=[
            f"{number} {name}{'' if number == 1 else 's'}"
            for number, name in ((len(trained), "run"), (len(views) - len(trained), "evaluation"))
            if number
        ],
        notes=[*unfinished(views), *judged(views)],
        tables=tables,
        figures=[(figure, Markup(figure.svg)) for figure in figures(report.arms)],
        index=Markup(_script_json(data.index)),
        chunks=data.chunks,
        groups_per_step=GROUPS_PER_STEP,
        items=items,
    )


def _settings(view: RunView) -> dict[str, Any]:
    seconds = sum(record.get("total") or 0.0 for record in view.timings)
    return {
        "name": view.name,
        "evaluation": view.is_evaluation,
        "algorithm": view.algorithm,
        "model": view.model,
        "seed": view.setting("seed"),
        "lr": view.setting("optimizer.lr"),
        "steps": view.setting("train.steps"),
        "reached": view.status.get("step"),
        "state": view.state,
        "minutes": round(seconds / 60, 1) if seconds else None,
        "questions": view.setting("rollout.questions_per_step"),
        "group_size": view.setting("rollout.group_size"),
        "trees": view.setting("tree.branching", "none") != "none",
        "command": view.command,
    }


def _credit_options(views: Sequence[RunView]) -> list[tuple[str, list[str]]]:
    """Options of credit, loss and search as (key, value of each run that uses them)."""
    sections = ("credit", "loss", "retriever.k", "rollout.max_searches", "rollout.temperature")
    keys: dict[str, None] = {}
    for view in views:
        for section in sections:
            value = view.setting(section)
            names = flatten(value, f"{section}.") if isinstance(value, dict) else [section]
            keys |= dict.fromkeys(names)
    return [
        (key, [_shown(view, key) for view in views])
        for key in keys
        if any(_shown(view, key) for view in views)
    ]


def _shown(view: RunView, key: str) -> str:
    unused = view.algorithm == "sft" and key.startswith(("credit.", "rollout.", "retriever."))
    value = None if unused else view.setting(key)
    return "" if value is None else without_secrets(str(value))


def _script_json(value: Any) -> str:
    """JSON in which no text can end the script element or start a comment."""
    text = json_text(printable_values(value), compact=True)
    unsafe: dict[str, str | int | None] = {
        "<": "\\u003c",
        ">": "\\u003e",
        "&": "\\u0026",
    }
    return text.translate(str.maketrans(unsafe)).encode("utf-8", "replace").decode("utf-8")


def _asset(name: str) -> str:
    return (
        resources.files("tspo_cli.reporting.page")
        .joinpath("templates", name)
        .read_text(encoding="utf-8")
    )
