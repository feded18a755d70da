"""`tspo runs`: list, show, follow and compare run directories."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tspo_cli import console
from tspo_cli.commands.options import Json
from tspo_cli.console import agreeing
from tspo_cli.text.secrets import without_secrets

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from tspo_cli.reporting.inspect.run_progress import Progress

    Show = Callable[[Progress], None]

app = typer.Typer(no_args_is_help=True, help="List, show, compare and follow runs.")


@app.command("ls")
def ls(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of runs.")] = Path(
        "runs"
    ),
    as_json: Json = False,
) -> None:
    """List the runs below a folder with state, progress and last EM.

    A run whose records cannot be read has an error on stderr; the others are listed all the same.
    """
    from tspo_cli.reporting.sources.overview import listing

    found, unreadable = listing(directory)
    for failure in unreadable.values():
        console.error(failure)
    if as_json:
        errors = {name: str(failure) for name, failure in unreadable.items()}
        console.result_json({"runs": found, "unreadable": errors})
    elif found:
        _show_listing(found)
    if unreadable:
        raise typer.Exit(max(failure.exit_code for failure in unreadable.values()))


def _show_listing(found: Sequence[Mapping[str, Any]]) -> None:
    lines = [
        [
            row["run"],
            row["algorithm"],
            _text(row["seed"]),
            row["state"],
            f"{_text(row['step'])}/{_text(row['steps'])}",
            "  ".join(_score(dataset, em, row["failed"]) for dataset, em in row["em"].items()),
        ]
        for row in found
    ]
    console.result(_aligned(["run", "algorithm", "seed", "state", "step", "last EM"], lines))


def _score(dataset: str, em: float | None, failed: Mapping[str, int]) -> str:
    """EM on a data set, and how many of its questions an outage made wrong."""
    outage = f" ({failed[dataset]} failed)" if dataset in failed else ""
    return f"{dataset} {_text(em)}{outage}"


@app.command("show")
def show(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")],
    as_json: Json = False,
) -> None:
    """Show a run: state, command, metrics, evaluations, settings and versions.

    Metrics are those of the last step. Settings are those that differ from the defaults; --json has
    all of them.
    """
    from tspo_cli.config.schema import Config
    from tspo_cli.config.tables import flatten
    from tspo_cli.reporting.sources.lost_steps import lost_steps
    from tspo_cli.reporting.sources.overview import details
    from tspo_cli.reporting.sources.run_view import examined_by_doctor, open_run
    from tspo_cli.text.printable import one_line

    with examined_by_doctor([run]):
        view = open_run(run)
        found = details(view)
        for sentence in lost_steps([view]):
            console.warn(sentence)
    if as_json:
        console.result_json(found)
        return
    keys = (
        "run",
        "algorithm",
        "seed",
        "state",
        "step",
        "steps",
        "attempts",
        "seconds",
        "path",
        "model",
        "command",
    )
    lines = [[key, _text(found[key])] for key in keys]
    lines += [["resumed", command] for command in found["resumed"]]
    console.result(_aligned([], lines))
    for sentence in found["warnings"]:
        console.result(one_line(f"warning: {sentence}"))
    _part(f"metrics of step {_text(found['metrics'].get('step'))}", found["metrics"])
    for scores in found["evaluations"]:
        plain = {key: value for key, value in scores.items() if not isinstance(value, dict | list)}
        _part("evaluation", plain)
    settings, defaults = flatten(found["config"]), flatten(Config().section_dict())
    own = {key: value for key, value in settings.items() if value != defaults.get(key, _UNKNOWN)}
    _part("settings", own)
    if len(own) < len(settings):
        more = agreeing(
            len(settings) - len(own),
            "more has its default; --json shows it",
            "more have their defaults; --json shows them",
        )
        console.result(f"({more})")
    _part("environment", flatten(found["environment"]))


_UNKNOWN = object()
"""What no setting equals: the default of a key that this version does not know."""


def _part(title: str, values: Mapping[str, Any]) -> None:
    if values:
        lines = [[key, _text(value)] for key, value in values.items()]
        console.result("\n" + _aligned([title, ""], lines))


@app.command("watch")
def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")],
    every: Annotated[
        float, typer.Option(min=0.1, max=3600.0, help="Seconds between two looks at the run.")
    ] = 2.0,
    as_json: Json = False,
) -> None:
    """Follow a run until it ends: steps, time left, curves, scores, warnings.

    A terminal shows one picture that changes. Elsewhere each new step is a line, and with --json a
    line of JSON. The exit code is 0 if the run has finished, and 1 if it failed, was stopped or was
    killed.

    tspo runs watch runs/mine && tspo report runs/mine
    """
    import time

    from tspo_cli.reporting.inspect.follow import FollowedRun

    with _shown(as_json) as show:
        followed = FollowedRun(run)
        seen = followed.look()
        show(seen)
        while not seen.is_over:
            time.sleep(every)
            before, seen = seen, followed.look()
            if seen != before:
                show(seen)
    if seen.state != "finished":
        raise typer.Exit(1)


@contextmanager
def _shown(as_json: bool) -> Iterator[Show]:
    """What shows a run: a line of JSON, a picture on a terminal, or a line."""
    import sys

    from tspo_cli.reporting.inspect.run_progress import line_of, screen_of
    from tspo_cli.text.printable import printable
    from tspo_cli.text.strict_json import json_text

    if as_json:
        yield lambda progress: console.result(json_text(progress.record()))
    elif not sys.stdout.isatty():
        yield lambda progress: console.result(line_of(progress))
    else:
        from rich.console import Console
        from rich.live import Live
        from rich.text import Text

        with Live(console=Console(), auto_refresh=False) as live:
            yield lambda progress: live.update(Text(printable(screen_of(progress))), refresh=True)


@app.command("diff")
def diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="Run directory.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Run directory.")],
    as_json: Json = False,
) -> None:
    """Compare two runs: configuration keys that differ, and their final metrics."""
    from tspo_cli.reporting.sources.lost_steps import lost_steps
    from tspo_cli.reporting.sources.overview import difference
    from tspo_cli.reporting.sources.run_view import examined_by_doctor, open_run

    with examined_by_doctor([first, second]):
        a, b = open_run(first), open_run(second)
        found = difference(a, b)
        for sentence in lost_steps([a, b]):
            console.warn(sentence)
    if as_json:
        console.result_json(found)
        return
    for part, values in found.items():
        lines = [[key, *map(_text, pair)] for key, pair in values.items()]
        console.result(
            _aligned([part, a.name, b.name], lines) if lines else f"{part}: no difference"
        )


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, str) and "{question}" in value:
        from tspo_cli.config.sections.prompt_value import prompt_name

        return prompt_name(value)
    return f"{value:.4g}" if isinstance(value, float) else without_secrets(str(value))


def _aligned(heading: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    from tspo_cli.text.printable import one_line

    table = [
        line for line in ([one_line(cell) for cell in line] for line in (heading, *lines)) if line
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in table
    )
