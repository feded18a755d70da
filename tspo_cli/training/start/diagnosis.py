"""What is wrong with a run directory, and what to do about it. Nothing is changed, nothing of the
run is executed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from tspo_cli import __version__, runs
from tspo_cli.config.load_config import read_resolved
from tspo_cli.console import agreeing, counted
from tspo_cli.disk import LOCK_NAME, has_writer
from tspo_cli.errors import TspoError
from tspo_cli.not_a_run import require_run
from tspo_cli.plain_files import require_plain, require_readable
from tspo_cli.record_forms import ENVIRONMENT, checked
from tspo_cli.training.core.checkpoints.checkpoint import check_checkpoint
from tspo_cli.training.launch.replaced_run import replaced
from tspo_cli.training.launch.same_experiment import (
    foreign_evaluations,
    read_inputs,
    recorded_experiment,
)
from tspo_cli.training.start.finding import Finding, advised, said_once
from tspo_cli.training.start.model_diagnosis import best_model, final_model
from tspo_cli.training.start.record_diagnosis import check_run_digests, check_run_records
from tspo_cli.training.start.recorded_settings import settings_of_run

_LEFTOVERS = {
    "**/.*.tmp": "left by a killed attempt; --resume tidies it up",
    runs.REPLACED_NAME: "the old run; tspo train puts it back, unless this one has a checkpoint",
    ".deleted": "left by a killed attempt; --resume tidies it up",
    "checkpoints/damaged_*": "set aside as damaged; delete it when you do not need it",
}
_MOST_NAMES = 8


def diagnose(run: Path) -> list[Finding]:
    """What is found in a run directory, part by part.

    Raises:
        MissingResourceError: it is no run directory.
    """
    require_run(run)
    busy = has_writer(run) is True
    found = [
        _tried("configuration", lambda: settings_of_run(run)),
        *_version(run),
        _tried("status", lambda: _status(run, busy)),
        *_steps(run, busy),
        *_lock(run),
        _tried("inputs", lambda: _inputs(run)),
        *_looked("records", lambda: check_run_records(run)),
        *_looked("evaluation", lambda: _foreign(run)),
        *_looked("digests", lambda: check_run_digests(run)),
        *_looked("kept", lambda: _kept(run)),
        *_looked("checkpoints", lambda: _checkpoints(run, busy)),
        *_looked("model", lambda: _models(run, busy)),
        *_looked("leftovers", lambda: [] if busy else _leftovers(run)),
        *_looked("disk", lambda: [_disk(run)]),
    ]
    return said_once(found)


def _looked(name: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """The findings of a part, or why it cannot be looked into, which hides no other part."""
    try:
        return list(look())
    except (TspoError, OSError) as error:
        return [Finding(name, "problem", advised(error, "put back a copy"))]


def _ok(detail: str) -> tuple[str, str]:
    return "ok", detail


def _tried(name: str, look: Callable[[], tuple[str, str]]) -> Finding:
    """`look`, or its error as a problem."""
    try:
        return Finding(name, *look())
    except (TspoError, OSError) as error:
        return Finding(name, "problem", advised(error, "put back a copy"))


def _lock(run: Path) -> Iterator[Finding]:
    """A problem where nobody can go on with the run, or know whether somebody trains it."""
    try:
        require_plain(run / LOCK_NAME, "remove it")
        if os.path.exists(run / LOCK_NAME):
            require_readable(run / LOCK_NAME)
    except (TspoError, OSError) as error:
        yield Finding("lock", "problem", advised(error, "delete it if nobody trains this run"))


def _version(run: Path) -> Iterator[Finding]:
    path = run / runs.ENVIRONMENT_NAME
    if not path.exists():
        return

    def look() -> tuple[str, str]:
        versions = checked(ENVIRONMENT, runs.read_json(path), str(path)).get("versions", {})
        written = versions.get("tspo-cli")
        if written == __version__:
            return _ok(f"written by tspo {written}")
        return "note", f"written by tspo {written}, this is {__version__}: old records are read"

    yield _tried("version", look)


def _status(run: Path, busy: bool) -> tuple[str, str]:
    status = runs.read_status(run)
    state, step = status["state"], status["step"]
    if busy:
        return _ok(f"{state} at step {step}; a process is training into it now")
    if state in ("running", "killed"):
        return "problem", (
            f"says running at step {step}, but no process here holds the lock: it was killed; "
            f"{_way_on(run)}"
        )
    if state in ("failed", "stopped"):
        first = "see logs/, then " if state == "failed" else ""
        return "problem", f"{state} at step {step}; {first}{_way_on(run)}"
    return _ok(f"{state} at step {step}")


def _steps(run: Path, busy: bool) -> Iterator[Finding]:
    """A problem where a finished run has not a record of each step."""
    step = -1
    with suppress(TspoError, OSError):  # which the finding on the status says
        status = runs.read_status(run)
        step = status["step"] if status["state"] == "finished" and not busy else -1
    if step < 0:
        return

    def look() -> tuple[str, str]:
        made = len(runs.read_jsonl(run / runs.METRICS_NAME))
        if made != step:
            return "problem", (
                f"finished at step {step}, but {runs.METRICS_NAME} has "
                f"{counted(made, 'step')}; put back a copy, or start anew with --overwrite"
            )
        timed = run / runs.TIMINGS_NAME
        if timed.exists() and (times := len(runs.read_jsonl(timed))) != made:
            had = f"{times} of {counted(made, 'step')}"
            return "problem", f"{timed.name} has {had}; put back a copy"
        return _ok(f"{agreeing(made, 'is', 'are')} recorded")

    yield _tried("steps", look)


def _way_on(run: Path) -> str:
    anew = f"begin again with --{'overwrite' if replaced(run, runs.CONFIG_NAME) else 'resume'}"
    return "continue with --resume" if runs.checkpoint_folders(run) else anew


def _inputs(run: Path) -> tuple[str, str]:
    """Whether --resume can read what the run began with."""
    if not (run / runs.INPUTS_NAME).exists():
        return _ok("no digests of them are recorded")
    return _ok(f"{counted(len(read_inputs(run)), 'digest')} to compare with at --resume")


def _foreign(run: Path) -> Iterator[Finding]:
    """The evaluations that the run did not make."""
    end = runs.read_status(run)["step"] if _is_finished(run) else None
    for folder, problem in foreign_evaluations(run, end).items():
        detail = f"{folder}: {problem}; move it elsewhere, and put back a copy of its own"
        yield Finding("evaluation", "problem", detail)


def _kept(run: Path) -> Iterator[Finding]:
    """Whether the evaluations and rollouts are there that the settings ask for. A whole folder may
    be deleted, and a --resume may have changed what is asked for.
    """
    try:
        config, step = read_resolved(run), runs.read_status(run)["step"]
    except TspoError:  # which other findings say
        return
    evaluated = {step} if step == config.train.steps else set()
    evaluated |= {0} if config.eval.at_start else set()
    evaluated |= set(range(0, step + 1, config.eval.every)[1:]) if config.eval.every else set()
    every = config.train.keep_rollouts if config.kind != "sft" else 0
    rolled = set(range(0, step + 1, every)[1:]) if every else set()
    for name, asked, found in (
        ("evaluations", evaluated if config.eval.data else set(), runs.eval_steps(run)),
        ("rollouts", rolled, runs.rollout_files(run)),
    ):
        missing = sorted(asked - {number for number, _ in found})
        steps = ", ".join(map(str, missing[:_MOST_NAMES])) + ", ..." * (len(missing) > _MOST_NAMES)
        if missing:
            yield Finding(
                name,
                "note",
                f"none of step {steps} ({len(missing)} of {len(asked)} that the settings name): "
                "not made yet, deleted, or made with other settings",
            )
        elif asked:
            all_are = "the only one is" if len(asked) == 1 else f"all {len(asked)} are"
            yield Finding(name, "ok", f"{all_are} here that the settings name")


def _checkpoints(run: Path, busy: bool) -> Iterator[Finding]:
    """The checkpoint that --resume takes, and what is wrong with newer ones."""
    folders, experiment, damaged = runs.checkpoint_folders(run), None, list[Exception]()
    with suppress(TspoError):  # which other findings say
        experiment = recorded_experiment(run)
    for folder in reversed(folders):
        try:
            check_checkpoint(folder, experiment)
        except (TspoError, OSError) as error:
            if not busy:  # a running training deletes old ones meanwhile
                damaged.append(error)
        else:
            advice = f"{_going_on(run)} sets it aside and takes {folder.name}"
            for damage in damaged:
                yield Finding("checkpoint", "problem", advised(damage, advice))
            yield Finding("checkpoints", "ok", f"--resume continues after {folder.name}")
            return
    for damage in damaged:
        yield Finding("checkpoint", "problem", advised(damage, "put back a copy"))
    if folders and not busy:
        advice = "put back a copy, or start anew with --overwrite"
        yield Finding("checkpoints", "problem", f"none is whole; {advice}")
    elif not folders:
        yield Finding("checkpoints", "note", _without_checkpoint(run))


def _going_on(run: Path) -> str:
    """What takes a checkpoint. A --resume of a finished run changes nothing."""
    more = "delete it, or --resume with more train.steps"
    return more if _is_finished(run) else "--resume"


def _without_checkpoint(run: Path) -> str:
    return f"none: {'the run cannot be continued' if _is_finished(run) else _way_on(run)}"


def _is_finished(run: Path) -> bool:
    with suppress(TspoError):  # which another finding says
        return bool(runs.read_status(run)["state"] == "finished")
    return False


def _models(run: Path, busy: bool) -> Iterator[Finding]:
    yield Finding("model", *final_model(run, busy))
    if (run / runs.BEST_NAME).is_dir():
        yield _tried("best", lambda: best_model(run))


def _leftovers(run: Path) -> Iterator[Finding]:
    for pattern, what in _LEFTOVERS.items():
        for path in sorted(run.glob(pattern)):
            yield Finding("leftover", "note", f"{path.relative_to(run)}: {what}")


def _disk(run: Path) -> Finding:
    folders = runs.checkpoint_folders(run)
    sizes = [sum(file.stat().st_size for file in folder.glob("*")) for folder in folders]
    needed, free = 2 * max(sizes, default=0), shutil.disk_usage(run).free
    if not os.access(run, os.W_OK):
        return Finding(
            "disk",
            "problem",
            "read-only for you, and --resume writes it; give this user the right to write it",
        )
    detail = f"{free / 2**30:.1f} GiB free, a checkpoint and an export need {needed / 2**30:.2f}"
    if free > needed:
        return Finding("disk", "ok", detail)
    return Finding("disk", "problem", f"{detail}; make room before --resume")
