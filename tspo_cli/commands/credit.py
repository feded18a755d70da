"""`tspo credit`: what a credit algorithm makes of one group, explained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tspo_cli import console

if TYPE_CHECKING:
    from tspo_cli.credit.explain import TurnRow


def credit(
    group_file: Annotated[Path, typer.Argument(metavar="GROUP.json", help="One question with its trajectories.")],
    algorithm: Annotated[
        str | None,
        typer.Option(
            "--algorithm", "-a", help="Its name, or FILE.py:function; wins over --set credit.algorithm. [tspo]"
        ),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option, such as credit.gate=always.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what a credit algorithm makes of one group: rewards and advantages turn by turn, and why.

    GROUP.json holds {"question", "golden_answers": [...], "trajectories": [{"answer", "turns": [{"query", "feedback"},
    ..., {}]}]}: one entry per turn, and the answering turn has no query and no feedback.

    tspo credit group.json --set credit.gate=always --set credit.alpha=0.3
    """
    from tspo_cli.config.load import load_config
    from tspo_cli.credit.assign import assign_credit
    from tspo_cli.credit.explain import credit_record, sentences, turn_rows
    from tspo_cli.credit.group_file import read_group

    chosen = [] if algorithm is None else [f"credit.algorithm={algorithm}"]
    config = load_config([], [*(settings or []), *chosen]).credit
    group = read_group(group_file)
    assigned = assign_credit(group, config)
    if as_json:
        console.result_json(credit_record(assigned, config))
        return
    console.result(f"Question: {group.question}")
    console.result(f"Gold: {' | '.join(group.golden_answers)}\n")
    console.result(_table(turn_rows(group, assigned)))
    console.result("\n" + "\n".join(sentences(assigned, config)))


def _table(rows: Sequence[TurnRow]) -> str:
    import io
    import sys

    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

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
            Text(row.action),
            row.gold,
            f"{row.reward:.3f}",
            f"{row.advantage:+.3f}" if row.advantage else "0",
        )
    terminal = sys.stdout.isatty()
    out = io.StringIO()
    Console(file=out, width=None if terminal else 120, force_terminal=terminal, highlight=False).print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().strip("\n").splitlines())
