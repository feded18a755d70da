"""`tspo credit`: what a credit algorithm makes of one group, explained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tspo_cli import console
from tspo_cli.commands.options import Json, Settings, check_file
from tspo_cli.errors import UsageError

if TYPE_CHECKING:
    from tspo_cli.credit.laboratory.explain import TurnRow


def credit(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="GROUP.json|RUN", help="One question with its trajectories, or a run directory."
        ),
    ],
    algorithm: Annotated[
        list[str] | None,
        typer.Option(
            "--algorithm",
            "-a",
            help="Its name, or FILE.py:function; wins over --set credit.algorithm. For a run "
            "repeatable, with options: "
            "-a grpo -a 'tspo gate=always'. Default: tspo; for a run all that its records allow.",
        ),
    ] = None,
    settings: Settings = None,
    steps: Annotated[
        str | None,
        typer.Option("--steps", help="Of a run: a step or a range, such as 1-20. Default: all."),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(
            "--figure",
            callback=check_file,
            help="Of a run: draw the comparison (.svg, .png or .pdf).",
        ),
    ] = None,
    trust: Annotated[
        bool,
        typer.Option("--trust", help="Of a run: run the Python files of its outcome and rule."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the advantages of a group turn by turn, or compare algorithms on a run.

    GROUP.json holds {"question", "golden_answers": [...], "trajectories": [{"answer", "turns":
    [{"query", "feedback"}, ..., {}]}]}: one entry per turn, and the answering turn has no query and
    no feedback.

    Of RUN, a directory that `tspo train` made, the recorded rollouts are judged again: which groups
    each algorithm would learn from, its advantages by kind and number of the turn, and where two
    algorithms disagree in sign.

    tspo credit group.json --set credit.gate=always --set credit.alpha=0.3

    tspo credit runs/demo/grpo -a grpo -a tspo -a "tspo gate=always" --figure credit.svg
    """
    if source.is_dir():
        from tspo_cli.commands.credit_run import compare_run
        from tspo_cli.reporting.sources.run_view import examined_by_doctor

        with examined_by_doctor([source]):
            compare_run(
                source, algorithm or [], settings or [], steps, figure, trust=trust, as_json=as_json
            )
        return
    if steps is not None or figure is not None or len(algorithm or []) > 1:
        raise UsageError(
            f"{source}: --steps, --figure and several algorithms are for a run directory"
        )
    _explain(source, algorithm, settings or [], as_json=as_json)


def _explain(
    group_file: Path, algorithm: Sequence[str] | None, settings: Sequence[str], *, as_json: bool
) -> None:
    from tspo_cli.config.load_config import load_config
    from tspo_cli.credit.assign import assign_credit
    from tspo_cli.credit.laboratory.explain import (
        credit_record,
        golds_left_out,
        sentences,
        turn_rows,
    )
    from tspo_cli.credit.laboratory.group_file import read_group

    chosen = [f"credit.algorithm={name}" for name in algorithm or []]
    config = load_config([], [*settings, *chosen]).credit
    group = read_group(group_file)
    assigned = assign_credit(group, config)
    if as_json:
        console.result_json(credit_record(assigned, config))
        return
    console.result(f"Question: {group.question}")
    console.result(f"Gold: {' | '.join(group.golden_answers)}\n")
    console.result(_table(turn_rows(group, assigned)), styled=True)
    lines = [*golds_left_out(group, config), *sentences(assigned, config)]
    console.result("\n" + "\n".join(lines))


def _table(rows: Sequence[TurnRow]) -> str:
    import io
    import sys

    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from tspo_cli.text.printable import printable

    table = Table(box=SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("#", justify="right", no_wrap=True)
    table.add_column("class", no_wrap=True)
    table.add_column("turn", justify="right", no_wrap=True)
    table.add_column("action", overflow="fold")
    table.add_column("gold", no_wrap=True)
    table.add_column("reward", justify="right", no_wrap=True)
    table.add_column("advantage", justify="right", no_wrap=True)
    for position, row in enumerate(rows):
        is_first = row.turn == 1
        if is_first and position:
            table.add_section()
        table.add_row(
            str(row.trajectory) if is_first else "",
            row.trajectory_class if is_first else "",
            str(row.turn),
            Text(printable(row.action)),
            row.gold,
            f"{row.reward:.3f}",
            f"{row.advantage:+.3f}" if row.advantage else "0",
        )
    terminal = sys.stdout.isatty()
    out = io.StringIO()
    Console(
        file=out, width=None if terminal else 120, force_terminal=terminal, highlight=False
    ).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().split("\n")).strip("\n")
