"""Runs whose metrics or evaluations are not those of the steps that they made."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator

from tspo_cli.console import counted
from tspo_cli.plain_files import open_plain
from tspo_cli.reporting.sources.run_view import RunView
from tspo_cli.runs import METRICS_NAME
from tspo_cli.training.launch.same_experiment import foreign_evaluations


def lost_steps(views: Iterable[RunView]) -> list[str]:
    """One sentence for everything that is wrong with the lines of a run's metrics: one is cut in a
    finished run, a step is missing or there twice, or they are more or fewer than the steps that
    the run has finished. So it is with evaluations that it did not make: of another run, or of a
    later step. No digest need be there to notice it.
    """
    return [
        f"{view.name}: {problem}; `{shlex.join(['tspo', 'doctor', str(view.path)])}` examines it"
        for view in views
        if not view.is_evaluation
        for problem in _problems(view)
    ]


def _problems(view: RunView) -> Iterator[str]:
    steps, is_finished = [row["step"] for row in view.metrics], view.state == "finished"
    end = view.status.get("step", len(steps)) if is_finished else len(steps)
    if is_finished and _is_cut(view):
        yield f"the last line of {METRICS_NAME} is cut, and was left out"
    if steps != list(range(1, len(steps) + 1)):
        yield f"{METRICS_NAME} has not one line for each of the steps 1 to {max(steps)}"
    elif len(steps) != end:
        yield f"finished at step {end}, but {METRICS_NAME} has {counted(len(steps), 'step')}"
    yield from foreign_evaluations(view.path, end if is_finished else None).values()


def _is_cut(view: RunView) -> bool:
    """True if the file of metrics ends within a line. A run that was killed may have such a line,
    and writes it again when it goes on.
    """
    path = view.path / METRICS_NAME
    if not path.exists() or not path.stat().st_size:
        return False
    with open_plain(path) as handle:
        handle.seek(-1, os.SEEK_END)
        return handle.read(1) != b"\n"
