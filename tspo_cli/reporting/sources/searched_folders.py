"""The search below a folder for runs and evaluations, and what it leaves out."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from pathlib import Path

from tspo_cli import runs
from tspo_cli.console import agreeing, warn
from tspo_cli.not_a_run import SWEEP_NAME, run_around
from tspo_cli.overwriting import is_left_over, shown_names


def folders_with(names: set[str], path: Path, say_left_out: bool) -> list[Path]:
    """The folders below `path` that hold one of `names`, without hidden ones. What is left out is
    named: a table would lack its runs.
    """
    found, hidden = list[Path](), list[Path]()
    unread = _say_unread if say_left_out else lambda error: None
    for folder, inner, files in os.walk(path, onerror=unread):
        place = Path(folder)
        unseen = {name for name in inner if name.startswith(".")}
        inner[:] = [name for name in inner if name not in unseen]
        if not os.access(folder, os.X_OK):  # its names can be listed, and nothing else
            unread(PermissionError(errno.EACCES, os.strerror(errno.EACCES), folder))
            inner.clear()
        elif names & {*inner, *files}:
            found.append(place)
        else:
            hidden += [place / name for name in unseen if _is_hidden_source(place / name)]
    if hidden and say_left_out:
        _say_hidden(path, sorted(hidden))
    return sorted(found)


def _is_hidden_source(path: Path) -> bool:
    records = (runs.CONFIG_NAME, runs.EVAL_SUMMARY_NAME, SWEEP_NAME)
    return not is_left_over(path.name) and any(os.path.exists(path / name) for name in records)


def _say_hidden(path: Path, hidden: Sequence[Path]) -> None:
    count = agreeing(len(hidden), "hidden run or evaluation is", "hidden runs or evaluations are")
    names = shown_names([str(folder.relative_to(path)) for folder in hidden])
    warn(f"{path}: {count} left out ({names}); a hidden one is shown where it is named itself")


def _say_unread(error: OSError) -> None:
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        return  # a run that trains deletes checkpoints meanwhile
    if run_around(Path(error.filename)) is not None:
        return  # the run itself says so, if what is in it is read
    warn(f"{error.filename}: cannot be read ({error.strerror}); what is in it is left out")
