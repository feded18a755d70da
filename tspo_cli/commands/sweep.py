"""`tspo sweep`: a grid of runs from one file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tspo_cli.commands.options import Json, Settings, check_folder, find_inputs_of_training
from tspo_cli.console import counted, progress, result, result_json, say, warn
from tspo_cli.errors import InvalidInputError, MissingResourceError, TspoError
from tspo_cli.plain_files import require_writable_name
from tspo_cli.stopping import stop_name, stop_number

if TYPE_CHECKING:
    from tspo_cli.config.sweeps.sweep_cells import Cell, Sweep

PRELOAD = "tspo_cli.evaluation.in_training"


def sweep(
    file: Annotated[
        Path, typer.Argument(metavar="FILE.toml", help="The sweep: base, seeds, arms, axes, grid.")
    ],
    settings: Settings = None,
    out: Annotated[
        Path | None,
        typer.Option(
            callback=check_folder, help="Directory of the sweep. Default: runs/<name of the file>."
        ),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Trainings at a time.")] = 1,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="PATTERN", help="Only cells of such names, e.g. 'tspo/*'."),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check and list all cells with their state, write nothing."),
    ] = False,
    write_configs: Annotated[
        Path | None,
        typer.Option(
            "--write-configs",
            callback=check_folder,
            metavar="DIR",
            help="Only write an experiment file for every arm, axis and grid value.",
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Train a grid of runs: arms, axes, options and seeds.

    Every cell of the grid is an ordinary run directory. If a cell fails, the others continue. The
    same command later trains only the cells that are missing.

    FILE.toml has the keys base (experiment files or recipes), seeds and baseline (an arm), and the
    tables settings (for all cells), arms.NAME (what is compared), axes.AXIS.NAME (repetitions over
    worlds or warm starts) and grid (options with a list of values, such as "optimizer.lr").
    arms.NAME and axes.AXIS.NAME hold settings, as an experiment file does.

    Report: tspo report DIR

    One cell: tspo train FILE.toml::ARM/AXIS-VALUE --set seed=0 (without axes: FILE.toml::ARM)
    """
    from dataclasses import replace

    from tspo_cli.arithmetic import compute_portably
    from tspo_cli.config.sweeps.sweep_cells import portable_cells, read_sweep
    from tspo_cli.training.problems import problems
    from tspo_cli.training.sft.epochs import with_steps_of_epochs

    plan = read_sweep(file, settings or [], problems)
    cells = [
        replace(cell, config=with_steps_of_epochs(cell.config)) for cell in plan.only(only or [])
    ]
    folder = out or Path("runs") / file.name.removesuffix(".toml").removesuffix(".sweep")
    for cell in cells:
        require_writable_name(folder / cell.name)
    if write_configs is not None:
        from tspo_cli.training.launch.sweep_runner import write_experiments

        paths = [str(path) for path in write_experiments(plan, write_configs)]
        result_json({"configs": paths}) if json else result("\n".join(paths))
    elif dry_run:
        _list(plan, cells, folder, json)
    else:
        compute_portably(portable_cells(cells))
        _run(plan, cells, folder, jobs, json)


def _list(plan: Sweep, cells: Sequence[Cell], folder: Path, json: bool) -> None:
    from tspo_cli.evaluation.sets import question_digests
    from tspo_cli.training.launch.sweep_runner import cell_states

    states = cell_states(plan, cells, folder, question_digests)
    if json:
        records = [
            cell | {"state": states[cell["name"]]}
            for cell in plan.record()["cells"]
            if cell["name"] in states
        ]
        result_json({"out": str(folder), "baseline": plan.baseline, "cells": records})
    else:
        width = max(map(len, states))
        for cell in cells:
            algorithm = "sft" if cell.config.kind == "sft" else cell.config.credit.algorithm
            result(
                f"{cell.name:<{width}}  {algorithm:<16} "
                f"{counted(cell.config.train.steps, 'step'):>11}  {states[cell.name]}"
            )
    left = [cell for cell in cells if states[cell.name] != "finished"]
    say(f"{counted(len(states), 'cell')}, {len(left)} to train, in {folder}; nothing was written")
    if problems := _missing_inputs(left):
        raise type(next(iter(problems.values())))(*problems)


def _missing_inputs(
    cells: Sequence[Cell],
) -> dict[str, MissingResourceError | InvalidInputError]:
    """A line for each input that cannot be used, with the cells that name it, and its error."""
    names: dict[str, list[str]] = {}
    errors: dict[str, MissingResourceError | InvalidInputError] = {}
    for cell in cells:
        try:
            find_inputs_of_training(cell.config)
        except (MissingResourceError, InvalidInputError) as error:
            for line in error.args:
                names.setdefault(line, []).append(cell.name)
                errors.setdefault(line, error)
    lines = dict[str, MissingResourceError | InvalidInputError]()
    for line, (first, *others) in names.items():
        more = f" and {counted(len(others), 'more cell')}" if others else ""
        lines[f"{first}{more}: {line}"] = errors[line]
    return lines


def _run(plan: Sweep, cells: Sequence[Cell], folder: Path, jobs: int, json: bool) -> None:
    from dataclasses import asdict

    from tspo_cli.evaluation.sets import question_digests
    from tspo_cli.training.launch.sweep_runner import run_sweep

    for line in _missing_inputs([cell for cell in cells if not (folder / cell.name).exists()]):
        warn(line)
    shown = -1
    total = sum(cell.config.train.steps for cell in cells)
    with _saying_what_goes_on(folder), progress(f"{folder.name}: step", total) as advance:

        def show(steps: int, ended: int, note: str) -> None:
            nonlocal shown
            if shown < 0:  # nothing was refused
                shown = 0
                say(
                    f"{counted(len(cells), 'cell')} in {folder}, {jobs} at a time; their messages "
                    f"are in {folder}/logs"
                )
            advance(steps - shown, f"{ended}/{counted(len(cells), 'cell')}  {note}")
            shown = steps

        results = run_sweep(
            plan, cells, folder, PRELOAD, questions=question_digests, jobs=jobs, progress=show
        )
    failed = [cell for cell in results if cell.state != "finished"]
    if json:
        result_json(
            {
                "out": str(folder),
                "baseline": plan.baseline,
                "cells": [asdict(cell) for cell in results],
            }
        )
    else:
        _print_results([f"{cell.name}: {cell.error}" for cell in failed], len(results), folder)
    if failed:
        raise TspoError(
            f"{folder}: {len(failed)} of {counted(len(results), 'cell')} failed; the same command "
            f"tries {'it' if len(failed) == 1 else 'them'} again"
        )


@contextmanager
def _saying_what_goes_on(folder: Path) -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        if number := stop_number(error):
            say(
                f"{stop_name(number)}: stopped; the same command trains what is missing in {folder}"
            )
        raise


def _print_results(failures: Sequence[str], cells: int, folder: Path) -> None:
    for failure in failures:
        say(failure)
    result(
        f"sweep  {folder}: {cells - len(failures)} of {counted(cells, 'cell')} "
        f"finished\nnext   tspo report "
        f"{folder}"
    )
