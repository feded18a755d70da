"""`tspo inspect`: read trajectories in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tspo_cli import console
from tspo_cli.errors import UsageError


def inspect(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.")],
    step: Annotated[int | None, typer.Option("--step", help="Training step.  [default: the last one kept]")] = None,
    evaluation: Annotated[bool, typer.Option("--eval", help="Evaluated items instead of training rollouts.")] = False,
    dataset: Annotated[str | None, typer.Option("--dataset", help="Evaluated items of this data set.")] = None,
    group: Annotated[int | None, typer.Option("--group", help="Only the group at this place, from 1.")] = None,
    question: Annotated[
        str | None, typer.Option("--question", metavar="ID", help="Only this question: its id, or data set/id.")
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--class", help="Only trajectories (success, near-miss, miss) or groups (mixed, ...) of a class."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", help="Groups to show. 0: all.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="The records as JSON.")] = False,
) -> None:
    """Show trajectories turn by turn: queries, passages, where the gold answer first occurs, rewards and advantages."""
    import shutil
    import sys
    from itertools import islice

    from tspo_cli.reporting.groups import read_groups
    from tspo_cli.reporting.transcript import choose_source, select, transcript
    from tspo_cli.reporting.views import open_run

    if limit < 0:
        raise UsageError(f"--limit {limit}: give 0 for all, or a positive number")
    view = open_run(run)
    source = choose_source(view, step=step, evaluation=evaluation, dataset=dataset)
    chosen = select(list(read_groups(view, source)), number=group, question=question, name=name)
    shown = list(islice(chosen, limit or None))
    if as_json:
        console.result_json({"run": view.name, "step": source.step, "dataset": source.dataset, "groups": shown})
        return
    on_terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if on_terminal else 120
    console.say(f"{view.name}, {source.label}: {len(shown)} of {len(chosen)} groups")
    console.result(transcript(shown, width=width, color=on_terminal))
