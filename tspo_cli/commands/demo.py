"""`tspo demo`: the whole loop on this machine, from a synthetic world to a report page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tspo_cli.commands.options import Json, Settings, check_folder
from tspo_cli.console import result, result_json


def demo(
    out: Annotated[
        Path,
        typer.Option(callback=check_folder, help="Folder for everything that the demo writes."),
    ] = Path("runs/demo"),
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of training and rollouts. The world does not change.")
    ] = 0,
    settings: Settings = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Only a few steps of everything, to test the installation."),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace an earlier demo in the folder."),
    ] = False,
    json: Json = False,
) -> None:
    """Run the whole loop on this machine in minutes and compare GRPO with TSPO.

    The demo makes a synthetic world, indexes its corpus and warm-starts a tiny policy on imperfect
    demonstrations. It trains that policy with GRPO and with TSPO, with the same budget and seed,
    evaluates both and writes a report page. Stages that an earlier demo with the same settings has
    finished are not repeated. --set changes a key in both RL experiments.
    """
    from tspo_cli.demo.demo_commands import DemoOptions
    from tspo_cli.demo.run_demo import run_demo

    options = DemoOptions(out, seed, tuple(settings or ()), quick)
    outcome = run_demo(options, overwrite=overwrite, as_json=json)
    if json:
        result_json(outcome.record())
    else:
        result(outcome.text())
