"""What is wrong with the directory of a sweep, and what to do about it. Nothing is changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from tspo_cli.config.sweeps.sweep_file import SWEEP_NAME
from tspo_cli.config.sweeps.sweep_record import read_sweep_record
from tspo_cli.console import counted
from tspo_cli.errors import TspoError
from tspo_cli.runs import is_run, read_status
from tspo_cli.training.launch.sweep_inputs import sweep_problems
from tspo_cli.training.start.diagnosis import diagnose
from tspo_cli.training.start.finding import Finding, advised, said_once

_NOTED = {("evaluations", "note")}
"""Findings that are no problem of the run, but one of the comparison."""
_AGAIN = "the same `tspo sweep`"
_OTHER_WORDS = {
    "start anew with --overwrite": f"move its folder elsewhere, and {_AGAIN} trains it anew",
    "--resume": _AGAIN,
}
"""What a cell does in the place of what a run does."""


def diagnose_sweep(folder: Path) -> list[Finding]:
    """What is found in the directory of a sweep: problems of its cells, each with the name of its
    cell, and cells that cannot be compared.
    """
    try:
        names = [cell["name"] for cell in read_sweep_record(folder)["cells"]]
    except TspoError as error:
        return [Finding(SWEEP_NAME, "problem", advised(error, "put back a copy"))]
    return said_once([*_cells(folder, names), *_comparable(folder)])


def _cells(folder: Path, names: list[str]) -> Iterator[Finding]:
    begun = [name for name in names if is_run(folder / name)]
    left = [name for name in names if name not in begun or _is_unfinished(folder / name)]
    more = f"; {_AGAIN} trains what is not finished" if left else ""
    count = f"{len(begun)} of {counted(len(names), 'cell')} have a run"
    yield Finding("cells", "ok", f"{count}{more}")
    for name in names:
        if name not in begun and (folder / name).exists():
            detail = f"{folder / name}: is no run; move it elsewhere, and `tspo sweep` trains it"
            yield Finding(name, "problem", detail)
    for name in begun:
        for finding in diagnose(folder / name):
            if finding.state == "problem" or (finding.name, finding.state) in _NOTED:
                detail = finding.detail
                for words, other in _OTHER_WORDS.items():
                    detail = detail.replace(words, other)
                yield Finding(name, finding.state, f"{finding.name}: {detail}")


def _is_unfinished(run: Path) -> bool:
    """False also where it cannot be read, which is a finding of its own."""
    with suppress(TspoError):
        return bool(read_status(run)["state"] != "finished")
    return False


def _comparable(folder: Path) -> Iterator[Finding]:
    found = 0
    try:
        for problem in sweep_problems(folder):
            found += 1
            yield Finding("comparison", "problem", problem)
    except TspoError as error:
        found += 1
        yield Finding("comparison", "problem", advised(error, "put back a copy"))
    if not found:
        yield Finding("comparison", "ok", "the runs are what the sweep compares")
