"""The commands report, inspect and runs in this process."""

from __future__ import annotations

import json
from typing import Any

import typer
from typer.testing import CliRunner, Result

from tspo_cli.commands import inspect, report
from tspo_cli.commands import runs as runs_command

app = typer.Typer()
app.command("report")(report.report)
app.command("inspect")(inspect.inspect)
app.add_typer(runs_command.app, name="runs")


def tspo(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def tspo_json(*arguments: object) -> Any:
    done = tspo(*arguments, "--json")
    assert done.exception is None, done.exception
    return json.loads(done.stdout)
