"""The run that `--overwrite` replaces is kept until the new one has something to resume from.

RUN/.replaced/   the old run, while the new one has neither a checkpoint nor its model. If the new
                 run ends without them, the next start puts the old one back.
RUN/.deleted/    what is being deleted

A demo is replaced in the same way. A file marks each: `mark`, for a run its configuration.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tspo_cli.console import say
from tspo_cli.disk import LOCK_NAME, delete
from tspo_cli.overwriting import is_temporary
from tspo_cli.plain_files import require_folder
from tspo_cli.record_digests import DIGESTS_NAME
from tspo_cli.runs import CONFIG_NAME, MODEL_NAME, REPLACED_NAME, checkpoint_folders

_DELETED = ".deleted"
LAUNCH_NAME = "launch"
"""RUN/launch has the logs of servers that `tspo launch` started, which begin before the run."""
OURS = (LOCK_NAME, REPLACED_NAME, _DELETED, LAUNCH_NAME)
"""Names in a run directory that belong to no run."""


def can_resume(path: Path) -> bool:
    """True if the run in `path` has a checkpoint or its trained model."""
    return (path / MODEL_NAME).exists() or bool(checkpoint_folders(path))


def move_aside(path: Path, mark: str = CONFIG_NAME) -> None:
    """Move the run in `path` into RUN/.replaced, its digests first: a half moved one lacks nothing.
    Its mark goes last: where it lies tells whether the move was interrupted.
    """
    aside = path / REPLACED_NAME
    aside.mkdir()
    entries = [entry for entry in path.iterdir() if entry.name not in OURS]
    places = {DIGESTS_NAME: -1, mark: 1}
    for entry in sorted(entries, key=lambda entry: places.get(entry.name, 0)):
        entry.rename(aside / entry.name)


def settle(
    path: Path, mark: str = CONFIG_NAME, stands: Callable[[Path], bool] = can_resume
) -> None:
    """Finish what a run that ended left behind: the old run comes back, unless the new one stands,
    which is to say that it can be resumed.
    """
    aside = path / REPLACED_NAME
    require_folder(aside, own=True)
    delete(path / _DELETED)
    if not aside.exists():
        return
    whole = (aside / mark).exists()
    if whole and stands(path):
        forget_replaced(path)
        return
    if whole:  # what lies beside it is the new run's
        clear(path)
        (aside / mark).rename(path / mark)
    for entry in sorted(aside.iterdir(), key=lambda entry: entry.name == DIGESTS_NAME):
        entry.rename(path / entry.name)
    aside.rmdir()
    if whole:
        say(f"{path}: what --overwrite was to replace is back; its successor had not come far")


def forget_replaced(path: Path) -> None:
    """Delete the old run: the new one has something to resume from."""
    if (path / REPLACED_NAME).exists():
        (path / REPLACED_NAME).rename(path / _DELETED)
        delete(path / _DELETED)


def replaced(path: Path, mark: str) -> Path | None:
    """Where the replaced one is kept whole, None where none is."""
    aside = path / REPLACED_NAME
    return aside if (aside / mark).exists() else None


def delete_temporaries(path: Path) -> None:
    """Delete what killed processes were writing into the run in `path`."""
    for left in [entry for entry in path.rglob(".*.tmp") if is_temporary(entry)]:
        delete(left)


def clear(path: Path) -> None:
    """Delete the run in `path`, but neither the lock, which others may be waiting at, nor a run
    that is kept.
    """
    (path / DIGESTS_NAME).unlink(missing_ok=True)
    for entry in path.iterdir():
        if entry.name not in OURS:
            delete(entry)
