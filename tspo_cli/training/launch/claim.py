"""One run per directory: claim it, and refuse one that is in use."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tspo_cli.config.load_config import read_resolved
from tspo_cli.config.schema import Config
from tspo_cli.disk import one_writer
from tspo_cli.errors import InvalidInputError, UsageError
from tspo_cli.overwriting import is_temporary, require_own
from tspo_cli.plain_files import require_folder, require_writable_name
from tspo_cli.record_digests import DIGESTS_NAME, check_complete
from tspo_cli.runs import (
    ADAPTER_NAME,
    BEST_CHECKPOINTS_NAME,
    BEST_NAME,
    CHECKPOINTS_NAME,
    COMMAND_NAME,
    CONFIG_NAME,
    CONFIG_TEXT_NAME,
    ENVIRONMENT_NAME,
    EVALUATIONS_NAME,
    HANDOVER_NAME,
    INPUTS_NAME,
    JUDGE_NAME,
    LINES_NAMES,
    LOGS_NAME,
    METRICS_NAME,
    MODEL_NAME,
    ROLLOUTS_NAME,
    STATUS_NAME,
    TRACE_NAME,
    checkpoint_folders,
    eval_steps,
    read_status,
)
from tspo_cli.training.launch.replaced_run import (
    LAUNCH_NAME,
    OURS,
    can_resume,
    clear,
    delete_temporaries,
    forget_replaced,
    move_aside,
    settle,
)
from tspo_cli.training.launch.same_experiment import CHANGES_NAME
from tspo_cli.training.telemetry.tracking import TENSORBOARD_NAME, WANDB_ID_NAME, WANDB_NAME

REPLACED_FOLDERS = (BEST_NAME, MODEL_NAME, ADAPTER_NAME)
"""Directories of a run that are replaced as a whole: a link in the place of one goes with it."""
FILLED_FOLDERS = (
    ROLLOUTS_NAME,
    EVALUATIONS_NAME,
    CHECKPOINTS_NAME,
    BEST_CHECKPOINTS_NAME,
    LOGS_NAME,
    JUDGE_NAME,
    TRACE_NAME,
    TENSORBOARD_NAME,
    WANDB_NAME,
    HANDOVER_NAME,
)
"""Directories of a run that get new files. Behind a link these would lie outside of the run."""

_NAMES = (
    *(*REPLACED_FOLDERS, *FILLED_FOLDERS, *LINES_NAMES, *OURS),
    *(CONFIG_NAME, CONFIG_TEXT_NAME, COMMAND_NAME, ENVIRONMENT_NAME, INPUTS_NAME, STATUS_NAME),
    *(CHANGES_NAME, DIGESTS_NAME, WANDB_ID_NAME),
)
"""All that a run directory has."""
RUN_FILES = "|".join(
    (
        *map(re.escape, _NAMES),
        rf"(?:{ROLLOUTS_NAME}|{BEST_NAME}|{EVALUATIONS_NAME}/step_\d+)/{re.escape(DIGESTS_NAME)}",
        rf"{ROLLOUTS_NAME}/step_\d+\.jsonl\.gz",
        rf"{EVALUATIONS_NAME}/step_\d+/[^/]+\.(?:json|jsonl|jsonl\.gz)",
        rf"(?:{CHECKPOINTS_NAME}|{BEST_CHECKPOINTS_NAME})/(?:damaged_)?step_\d+"
        r"/[^/]+\.(?:json|safetensors)",
        rf"(?:{'|'.join(REPLACED_FOLDERS)})/(?:[^/]+/)?"
        r"(?:[^/]+\.(?:json|safetensors|jinja|model)|(?:vocab|merges)\.txt)",
        rf"{LOGS_NAME}/attempt_\d+\.log",
        rf"{JUDGE_NAME}/replies_\d+\.jsonl",
        rf"{TRACE_NAME}/step_\d+_rank_\d+\.json\.gz",
        rf"{TENSORBOARD_NAME}/events\.out\.tfevents\..+",
        rf"(?:{WANDB_NAME}|{HANDOVER_NAME}|{LAUNCH_NAME})/.+",
        r"\.(?:replaced|deleted)/.+",
    )
)
"""A regular expression of their paths from there. Names that others choose may be any."""
_FILES = re.compile(RUN_FILES)


@dataclass(frozen=True, slots=True)
class Claim:
    """A claimed run directory. Processes that inherit `lock` keep it claimed until they end."""

    path: Path
    lock: int


def check_run_place(path: Path) -> None:
    """Raises InvalidInputError if something else than a run stands at `path`, or none can."""
    require_writable_name(path)
    if path.exists() and not path.is_dir():
        raise InvalidInputError(f"{path}: exists and is no directory; choose another --out")
    entries = [*path.iterdir()] if path.is_dir() else []
    names = {entry.name for entry in entries if not is_temporary(entry)}
    if names - {*OURS} and CONFIG_NAME not in names:
        raise InvalidInputError(f"{path}: exists and is not a run directory; choose another --out")


@contextmanager
def claimed_run(path: Path, *, resume: bool, overwrite: bool) -> Iterator[Claim]:
    """Make the run directory ready and keep every other training out of it until the block ends.

    A directory in which no step was trained has nothing to lose: whatever ended that run, the next
    one starts in it anew without a flag. The operating system releases the lock when the process
    and those that inherited it have ended, however they end. On a file system without locks nothing
    keeps others out.

    Raises:
        UsageError: both `resume` and `overwrite`.
        InvalidInputError: another process trains into the directory; it holds a run and neither
        flag was given; it is no run directory; what would be replaced has files of the
        user's; or the run to resume lacks a record.
    """
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other")
    check_run_place(path)
    with one_writer(path, "training into it") as lock:
        settle(path)
        delete_temporaries(path)
        if resume:
            _require_folders(path)
            require_records(path)
        else:
            if has_trained(path) and not overwrite:
                raise InvalidInputError(f"{path}: {_ways_out(path)}")
            require_own(path, _NAMES, "a run", _FILES)
            if has_trained(path):
                move_aside(path)
            else:
                clear(path)
        try:
            yield Claim(path, lock)
        finally:
            if not has_trained(path):
                settle(path)
            elif can_resume(path):
                forget_replaced(path)


def _require_folders(run: Path) -> None:
    for name in REPLACED_FOLDERS:
        require_folder(run / name)
    for name in FILLED_FOLDERS:
        require_folder(run / name, own=True)
    for folder in (run / EVALUATIONS_NAME).glob("step_*"):
        require_folder(folder, own=True)


def require_records(run: Path) -> None:
    """Look for the records that a run had, and that --resume would do without or write anew.

    Raises:
        InvalidInputError: a record is missing that has a digest; the message names it.
    """
    evaluations = [folder for _, folder in eval_steps(run)]
    for folder in (run, run / BEST_NAME, run / ROLLOUTS_NAME, *evaluations):
        check_complete(folder)


def has_trained(path: Path) -> bool:
    """True if a run in `path` trained at least one step."""
    if can_resume(path):
        return True
    return (path / METRICS_NAME).exists() and (path / METRICS_NAME).stat().st_size > 0


def _ways_out(path: Path) -> str:
    """That the directory is used, and the flags that work there."""
    if checkpoint_folders(path):
        return "already holds a run; add --resume to continue it or --overwrite to replace it"
    return (
        "already holds a run, without a checkpoint to continue from; add --overwrite to replace "
        "it, or choose another --out"
    )


def is_complete(config: Config, path: Path) -> bool:
    """True if nothing is left to do for `config` in the run directory: all its steps are made, or a
    rule that still stands stopped it early, and its model is there if it should be.
    """
    status = read_status(path)
    if status["state"] != "finished":
        return False
    made = status["step"] >= config.train.steps
    made = made or ("stopped_early" in status and _stops_as_before(config, path))
    return made and ((path / MODEL_NAME).is_dir() or not config.train.export_model)


def _stops_as_before(config: Config, path: Path) -> bool:
    before = read_resolved(path)
    return (
        before.train.stop_when == config.train.stop_when
        and before.train.on_warning == config.train.on_warning
        and before.collapse == config.collapse
    )
