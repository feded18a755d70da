"""One run per directory: claim it, and refuse one that is in use."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tspo_cli.errors import InvalidInputError, UsageError
from tspo_cli.runs import CONFIG_NAME, CONFIG_TEXT_NAME, METRICS_NAME, MODEL_NAME, read_jsonl

LOCK_NAME = ".lock"


@contextmanager
def claimed_run(path: Path, *, resume: bool, overwrite: bool) -> Iterator[None]:
    """Make the run directory ready and keep every other training out of it until the block ends.

    A directory in which no step was trained has nothing to lose: whatever ended that run, the next
    one starts in it anew without a flag. The operating system releases the lock when the process
    ends, however it ends. On a file system without locks nothing keeps others out.

    Raises:
        UsageError: both `resume` and `overwrite`.
        InvalidInputError: another process trains into the directory; it holds a run and neither
        flag was given; or it is no run directory.
    """
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other")
    if path.exists() and not path.is_dir():
        raise InvalidInputError(f"{path}: exists and is no directory; choose another --out")
    names = {entry.name for entry in path.iterdir()} if path.is_dir() else set()
    if names - {LOCK_NAME, CONFIG_TEXT_NAME} and CONFIG_NAME not in names:
        raise InvalidInputError(f"{path}: exists and is not a run directory; choose another --out")
    path.mkdir(parents=True, exist_ok=True)
    with open(path / LOCK_NAME, "w") as lock:
        _lock(lock.fileno(), path)
        if not resume:
            if has_trained(path) and not overwrite:
                raise InvalidInputError(
                    f"{path}: already holds a run; add --resume to continue it or --overwrite to "
                    "replace it"
                )
            _clear(path)
        yield


def has_trained(path: Path) -> bool:
    """True if a run in `path` trained at least one step."""
    if (path / MODEL_NAME).exists() or any((path / "checkpoints").glob("step_*")):
        return True
    return bool(read_jsonl(path / METRICS_NAME))


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InvalidInputError(
            f"{path}: another process is training into it; wait for it to end, or choose another "
            "--out"
        ) from None
    except OSError:  # a file system without locks
        return


def _clear(path: Path) -> None:
    """Delete everything but the lock, which others may be waiting at."""
    for entry in path.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry.name != LOCK_NAME:
            entry.unlink()
