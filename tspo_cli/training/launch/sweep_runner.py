"""Run the cells of a sweep, each as its own `tspo train`, several at a time.

DIR/sweep.json                 the cells of the sweep
DIR/configs/tspo-a.toml        the experiment file of a variant; `--set seed=N` makes it a cell
DIR/tspo/a/seed0/              the run directory of a cell
DIR/logs/tspo-a-seed0.log      the messages of its training
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from tspo_cli.config.sweeps.sweep_cells import (
    SHARED_FILE,
    WRITTEN,
    Cell,
    Sweep,
    experiment_file,
    experiment_files,
)
from tspo_cli.config.sweeps.sweep_file import SWEEP_NAME
from tspo_cli.config.sweeps.sweep_record import CONFIGS_NAME, is_sweep, read_sweep_record
from tspo_cli.console import agreeing, counted, warn
from tspo_cli.disk import LOCK_NAME, atomic_write_text, one_writer
from tspo_cli.errors import InvalidInputError, advising
from tspo_cli.packages import require_packages
from tspo_cli.plain_files import read_plain, require_folder
from tspo_cli.record_digests import changing
from tspo_cli.runs import (
    LOGS_NAME,
    METRICS_NAME,
    STATUS_NAME,
    is_run,
    read_jsonl,
    read_status,
    write_json,
)
from tspo_cli.text.secrets import file_mode
from tspo_cli.training.launch.cell_process import (
    start_training,
    training_context,
    why_it_ended,
)
from tspo_cli.training.launch.child_processes import CHECKPOINT_PATIENCE, end_processes
from tspo_cli.training.launch.claim import check_run_place, is_complete, require_records
from tspo_cli.training.launch.sweep_inputs import (
    QuestionDigests,
    check_cell,
    has_begun,
    require_same_inputs,
    require_same_questions,
)

_POLL_SECONDS = 0.5
_OR_ANEW = "or move the folder of this cell elsewhere, and the same command trains it again"


@dataclass(frozen=True, slots=True)
class CellResult:
    """How a cell ended: `state` is finished or failed.

    `seconds` is 0 for a cell that was finished before.
    """

    name: str
    state: str
    seconds: float
    error: str = ""


Progress = Callable[[int, int, str], None]
"""(training steps done, cells ended, a note)"""


def cell_state(cell: Cell, out: Path) -> str:
    """new, finished, or the state of an unfinished run.

    Raises:
        InvalidInputError: something else than a run stands there, or a finished run lacks a record
            or has a changed one.
    """
    run = out / cell.name
    check_run_place(run)
    if not is_run(run):
        return "new"
    state = str(read_status(run)["state"])
    if state != "finished":
        return state
    if not is_complete(cell.config, run):
        return "stopped"
    _require_whole(run)
    return state


def cell_states(
    sweep: Sweep, cells: Sequence[Cell], out: Path, questions: QuestionDigests
) -> dict[str, str]:
    """The states of `cells` by their names.

    Raises:
        InvalidInputError: as `cell_state` and `require_one_experiment`; or one is to be trained,
            and the others were evaluated on other questions than their files hold now.
    """
    require_one_experiment(sweep, out)
    states = {cell.name: cell_state(cell, out) for cell in cells}
    if set(states.values()) != {"finished"}:
        require_same_questions({out / cell.name: cell.config for cell in sweep.cells}, questions)
    return states


def require_one_experiment(sweep: Sweep, out: Path) -> None:
    """Compare all runs in `out` that are cells of the sweep, also those that are not to be trained.

    Raises:
        InvalidInputError: the directory holds something else, or another sweep; a run directory of
            it holds another experiment or was evaluated otherwise; cells began with other inputs.
    """
    _refuse_other_sweep(out, sweep)
    runs = {out / cell.name: cell.config for cell in sweep.cells}
    for run, config in runs.items():
        if is_run(run) and has_begun(run):
            with advising(_OR_ANEW):
                check_cell(run, config)
    require_same_inputs(runs)


def _require_whole(run: Path) -> None:
    """Look for the records of a finished run that a report reads, and its steps."""
    with advising(_OR_ANEW):
        require_records(run)
        made, step = len(read_jsonl(run / METRICS_NAME)), read_status(run)["step"]
    if made != step:
        raise InvalidInputError(
            f"{run / METRICS_NAME}: expected {counted(step, 'step')}, as {STATUS_NAME} says, got "
            f"{made}; put back a copy; {_OR_ANEW}"
        )


def write_experiments(sweep: Sweep, folder: Path) -> list[Path]:
    """Write the experiment file of every variant into `folder`; returns their paths.

    They extend a file with what all of them share, which is written too.

    Raises:
        InvalidInputError: a file of the user's has the name of one of them.
    """
    files = experiment_files(sweep, folder)
    for path in files:
        if path.exists() and not read_plain(path).startswith(WRITTEN.encode()):
            raise InvalidInputError(
                f"{path}: is there already, and no sweep wrote it, so it is not replaced; choose "
                "another folder"
            )
    return _write_files(files)


def _write_files(files: Mapping[Path, str]) -> list[Path]:
    """Write the experiment files of a sweep; returns those of its variants."""
    for path, text in files.items():
        atomic_write_text(path, text, file_mode(text))
    _, *variants = files
    return variants


def run_sweep(
    sweep: Sweep,
    cells: Sequence[Cell],
    out: Path,
    preload: str,
    *,
    questions: QuestionDigests,
    jobs: int,
    progress: Progress,
) -> list[CellResult]:
    """Train those of `cells` that are not finished, `jobs` at a time.

    A cell that fails does not stop the others. `preload` is a module that trainings import in
    addition to those of this room. `questions` reads those of evaluations. If a signal ends the
    sweep, its trainings end too and can be resumed.

    Raises:
        InvalidInputError: the directory holds another sweep, or another process runs this one; a
            run directory of it holds another experiment.
        MissingResourceError: a package that a cell needs is not installed.
    """
    for cell in cells:
        require_packages(cell.config)
    _refuse_other_sweep(out, sweep)
    with one_writer(out, "running this sweep"):
        _require_folders(out, cells)
        states = cell_states(sweep, cells, out, questions)
        return _run_cells(sweep, cells, out, preload, states, jobs=jobs, progress=progress)


def _run_cells(
    sweep: Sweep,
    cells: Sequence[Cell],
    out: Path,
    preload: str,
    states: Mapping[str, str],
    *,
    jobs: int,
    progress: Progress,
) -> list[CellResult]:
    _name_left_out(sweep, out)
    with changing(out / SWEEP_NAME):
        write_json(out / SWEEP_NAME, sweep.record())
    _write_files(experiment_files(sweep, out / CONFIGS_NAME))
    (out / LOGS_NAME).mkdir(exist_ok=True)
    by_name = {cell.name: cell for cell in cells}
    waiting = [cell for cell in cells if states[cell.name] != "finished"]
    results = [
        CellResult(cell.name, "finished", 0.0) for cell in cells if states[cell.name] == "finished"
    ]
    running: dict[str, _Training] = {}
    steps = {cell.name: _steps_done(cell, out) for cell in cells}
    context = training_context(preload)
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                cell = waiting.pop(0)
                running[cell.name] = _start(context, cell, out, resume=states[cell.name] != "new")
            ended = [
                name for name, training in running.items() if training.process.exitcode is not None
            ]
            results += [_result(name, running.pop(name)) for name in ended]
            steps |= {name: _steps_done(by_name[name], out) for name in [*running, *ended]}
            progress(sum(steps.values()), len(results), ", ".join(running))
            time.sleep(_POLL_SECONDS)
    finally:
        left = [training.process for training in running.values()]
        end_processes(left, CHECKPOINT_PATIENCE)
    order = {cell.name: index for index, cell in enumerate(cells)}
    return sorted(results, key=lambda result: order[result.name])


@dataclass(frozen=True, slots=True)
class _Training:
    """`said_before`: bytes of the log that are of earlier attempts."""

    process: ForkServerProcess
    log: Path
    said_before: int
    started: float


def _start(context: ForkServerContext, cell: Cell, out: Path, *, resume: bool) -> _Training:
    file = experiment_file(out / CONFIGS_NAME, cell.variant)
    arguments = ["train", str(file), "--set", f"seed={cell.seed}", "--out", str(out / cell.name)]
    log = out / LOGS_NAME / f"{cell.name.replace('/', '-')}.log"
    said_before = log.stat().st_size if log.exists() else 0
    process = start_training(context, [*arguments, *(["--resume"] if resume else [])], log)
    return _Training(process, log, said_before, time.perf_counter())


def _result(name: str, training: _Training) -> CellResult:
    seconds = time.perf_counter() - training.started
    code = training.process.exitcode
    if not code:
        return CellResult(name, "finished", seconds)
    said = ""
    with (
        suppress(FileNotFoundError),
        training.log.open("rb") as log,
    ):  # killed before it said a word
        log.seek(training.said_before)
        said = log.read().decode(errors="replace")
    return CellResult(name, "failed", seconds, why_it_ended(code, said))


def _name_left_out(sweep: Sweep, out: Path) -> None:
    """Warn of the runs of an earlier sweep file that are in this one no more."""
    before = read_sweep_record(out)["cells"] if is_sweep(out) else []
    names = {cell["name"] for cell in before} - {cell.name for cell in sweep.cells}
    left = sorted(name for name in names if is_run(out / name))
    if left:
        warn(
            f"{out}: {agreeing(len(left), 'run is', 'runs are')} of cells that {sweep.path} has no "
            f"more, and the report of the sweep leaves them out: {', '.join(left)}"
        )


def _require_folders(out: Path, cells: Sequence[Cell]) -> None:
    names = {Path(cell.name) for cell in cells}
    parents = {parent for name in names for parent in name.parents} - {Path()}
    for name in sorted(names | parents | {Path(LOGS_NAME), Path(CONFIGS_NAME)}):
        require_folder(out / name, own=True)


def _steps_done(cell: Cell, out: Path) -> int:
    return min(len(read_jsonl(out / cell.name / METRICS_NAME)), cell.config.train.steps)


def _refuse_other_sweep(out: Path, sweep: Sweep) -> None:
    """Refuse a directory that holds anything but runs of this sweep.

    Raises:
        InvalidInputError: it is not empty and holds no sweep, or the runs of another sweep file.
    """
    if not out.exists() or {entry.name for entry in out.iterdir()} <= {LOCK_NAME}:
        return
    if not is_sweep(out):
        what = "holds no sweep; choose another --out"
        if (out / CONFIGS_NAME / SHARED_FILE).exists():
            what = f"has no {SWEEP_NAME}, which says what its cells are; put back a copy"
        raise InvalidInputError(f"{out}: exists and {what}")
    names = {cell["name"] for cell in read_sweep_record(out)["cells"]}
    if names.isdisjoint(cell.name for cell in sweep.cells):
        raise InvalidInputError(f"{out}: holds another sweep; choose another --out")
