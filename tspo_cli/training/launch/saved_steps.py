"""The checkpoints of a run: when one is due, what a stop asks for, and how a run goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tspo_cli import stopping
from tspo_cli.console import warn
from tspo_cli.disk import flush_to_disk, reason
from tspo_cli.errors import InvalidInputError, MissingResourceError, TspoError
from tspo_cli.record_digests import delete_folder, forget_digests, note_digests
from tspo_cli.runs import (
    CHECKPOINTS_NAME,
    LINES_NAMES,
    QUESTIONS_NAME,
    checkpoint_folder,
    eval_steps,
    keep_steps_up_to,
    rollout_files,
)
from tspo_cli.steady_folders import identity
from tspo_cli.training.best import forget_later
from tspo_cli.training.core.checkpoints.averaging import averaged_steps, load_mean
from tspo_cli.training.core.checkpoints.checkpoint import (
    UnfinishedCheckpoint,
    begin_checkpoint,
    check_checkpoint,
    find_checkpoint,
    forget_extra,
    load_checkpoint,
    prune,
    set_aside,
)
from tspo_cli.training.core.distributed import (
    all_max,
    barrier,
    broadcast_json,
    rank,
    world_size,
)
from tspo_cli.training.core.stop_points import agree_to_stop
from tspo_cli.training.launch.replaced_run import forget_replaced
from tspo_cli.training.launch.same_experiment import EXPERIMENT
from tspo_cli.training.launch.training_run import TrainingRun

DUE = "evaluation"
"""In the `extra` of a checkpoint: the evaluation of its step is still to be made."""


@dataclass
class SavedSteps:
    """What a checkpoint would hold now. `step` is the last whole step, `saved` that of the newest
    checkpoint, which may be `unfinished`: its files are written while the next step rolls out.
    `is_evaluated` is False while an evaluation of `step` is due.
    """

    run: TrainingRun
    step: int
    saved: int
    is_evaluated: bool = True
    unfinished: UnfinishedCheckpoint | None = None
    last_save: float = field(default_factory=time.monotonic)
    last_step: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._place = identity(self.run.directory)
        critic = self.run.critic
        for core in (self.run.learner.core, *([critic.core] if critic is not None else ())):
            core.before_change = self.finish

    @property
    def is_in_place(self) -> bool:
        """False where the run directory is no longer what it was when the training began."""
        return identity(self.run.directory) == self._place

    def require_place(self) -> None:
        """Raises TspoError where somebody moved or deleted the run directory."""
        if self.run.is_main_process and not self.is_in_place:
            raise TspoError(
                f"{self.run.directory}: was moved or deleted while this run wrote it; where it is "
                "now, --resume goes on"
            )

    def begin_step(self, step: int) -> bool:
        """Begin a step, unless a stop was asked for. True if a checkpoint follows it, other than as
        the last one of the run: after checkpoint.every steps, and where checkpoint.minutes will
        have passed by the clock of the first process.
        """
        agree_to_stop()
        options, now = self.run.config.checkpoint, time.monotonic()
        expected_end = now + (now - self.last_step if step > 1 else 0.0)
        self.last_step = now
        if options.every and step % options.every == 0:
            return True
        if not options.minutes:
            return False
        is_late = rank() == 0 and expected_end - self.last_save >= 60 * options.minutes
        return bool(all_max(float(is_late)))

    def end_step(self, step: int, *, is_evaluated: bool) -> None:
        """The step is whole, and its records are written; its evaluation may follow."""
        self.step, self.is_evaluated = step, is_evaluated

    def end_evaluation(self) -> None:
        """The evaluation that was due is made: the checkpoint says so no more."""
        if self.saved == self.step and not self.is_evaluated and self.run.is_main_process:
            folder = checkpoint_folder(self.run.directory, self.step)
            if folder.exists():
                forget_extra(folder, DUE)
        self.is_evaluated = True

    def end_with_mean(self) -> None:
        """The last step is made: where train.average_checkpoints asks for it, write its checkpoint
        and give the policy the mean of the last ones. A damaged one is said and left out.
        """
        run = self.run
        steps = averaged_steps(run.config, self.step)
        if not steps:
            return
        self.save()
        usable = broadcast_json(self._usable(steps) if run.is_main_process else None)
        folders = [checkpoint_folder(run.directory, step) for step in usable]
        if len(folders) > 1:
            load_mean(run.learner.core, folders)
            run.hand_over(self.step)
            named = ", ".join(map(str, sorted(usable)))
            run.log(f"the policy is now the mean of the checkpoints of steps {named}")

    def _usable(self, steps: Sequence[int]) -> list[int]:
        """The steps with a whole checkpoint of this run."""
        run, usable = self.run, list[int]()
        for step in steps:
            try:
                folder = checkpoint_folder(run.directory, step)
                check_checkpoint(folder, run.belongs.get(EXPERIMENT))
                usable.append(step)
            except (InvalidInputError, MissingResourceError) as error:
                run.warn(f"{error}; train.average_checkpoints leaves this checkpoint out")
        return usable

    def save(self) -> None:
        """Write the checkpoint of the last whole step, unless it is there."""
        self.begin_save()
        self.finish()

    def begin_save(self) -> None:
        """`save` in the background, until `finish`, which comes before any weights change."""
        if self.saved == self.step or not writes_checkpoints(self.run):
            return
        self.finish()
        run, critic = self.run, self.run.critic
        if run.is_main_process:  # a checkpoint never outlives the records of its steps
            paths = [path for name in LINES_NAMES if (path := run.directory / name).exists()]
            for path in paths:
                flush_to_disk(path)
            note_digests(*paths, grows=True)
        extra: dict[str, Any] = {"step": self.step, **run.belongs}
        if not self.is_evaluated:
            extra[DUE] = "due"
        folder = checkpoint_folder(run.directory, self.step)
        core = critic.core if critic else None
        self.unfinished = begin_checkpoint(run.learner.core, folder, extra, core)
        self.saved, self.last_save = self.step, time.monotonic()

    def finish(self) -> None:
        """Put the checkpoint that is being written in its place. All processes call it.

        Raises:
            TspoError, WriteError: it cannot be written, or the run directory was moved.
        """
        unfinished, self.unfinished = self.unfinished, None
        if unfinished is None:
            return
        self.require_place()
        unfinished.finish()
        if self.run.is_main_process:
            _prune(self.run, self.saved)
            forget_replaced(self.run.directory)

    def finish_or_warn(self) -> None:
        """`finish` after another error, which is the one that ends the run."""
        try:
            self.finish()
        except (TspoError, OSError) as error:
            said = reason(error) if isinstance(error, OSError) else error
            warn(f"the checkpoint of step {self.saved} was not written: {said}")

    def save_at_stop(self, number: int) -> None:
        """Write the checkpoint that the signal `number` asks for."""
        self.finish()
        name = stopping.stop_name(number)
        if self.step > self.saved and writes_checkpoints(self.run):
            self.run.log(
                f"{name}: writing the checkpoint of step {self.step}; a second signal ends at once"
            )
            self.save()
        then = "" if self.saved == self.step else f" after step {self.saved}"
        self.run.log(f"{name}: stopped after step {self.step}; --resume goes on{then}")


def writes_checkpoints(run: TrainingRun) -> bool:
    """True unless the experiment wants no checkpoints."""
    return bool(run.config.checkpoint.every or run.config.checkpoint.minutes)


@contextmanager
def saved_at_stop(saves: SavedSteps) -> Iterator[SavedSteps]:
    """Within it a signal waits for a moment at which the checkpoint of the last whole step can be
    written, and this is done. A second signal does not wait.
    """
    with stopping.deferred():
        try:
            yield saves
        except (KeyboardInterrupt, SystemExit) as error:
            number = stopping.stop_number(error)
            if number and not stopping.is_urgent():
                saves.save_at_stop(number)
            raise
        except Exception:
            if world_size() == 1:  # several processes do not fail together: the others may be gone
                saves.finish_or_warn()
            raise


def restore(run: TrainingRun) -> SavedSteps:
    """Load the newest whole checkpoint and drop what was written after it.

    Raises:
        InvalidInputError: no checkpoint is whole, or the metrics lack a step before it.
    """
    folder, step, is_evaluated = _newest_checkpoint(run), 0, True
    if folder is not None:
        critic = run.critic.core if run.critic is not None else None
        extra = load_checkpoint(run.learner.core, folder, critic)
        step, is_evaluated = int(extra["step"]), DUE not in extra
    if run.is_main_process:
        forget_later(run.directory, step, run.belongs)
        for name in LINES_NAMES:
            if name != QUESTIONS_NAME or run.config.data.has_pool:
                keep_steps_up_to(run.directory / name, step)
        for evaluated, folder in eval_steps(run.directory):
            if evaluated > step or step == 0 or (evaluated == step and not is_evaluated):
                delete_folder(folder)
        again = [path for later, path in rollout_files(run.directory) if later > step]
        forget_digests(*again)
        for path in again:
            path.unlink()
        _prune(run, step)
    run.log(f"resume after step {step}" if step else "no checkpoint yet: start from the beginning")
    run.hand_over(step)
    barrier()
    return SavedSteps(run, step, step, is_evaluated)


def _prune(run: TrainingRun, step: int) -> None:
    """Delete the checkpoints that are too many after `step`, and in no mean of the last ones."""
    prune(run.directory, run.config.checkpoint.keep, averaged_steps(run.config, step))


def _newest_checkpoint(run: TrainingRun) -> Path | None:
    """The checkpoint to go on from. The first process checks it, and sets damaged ones aside."""
    name = None
    if run.is_main_process:
        found = find_checkpoint(run.directory, run.belongs.get(EXPERIMENT))
        for folder, problem in found.damaged.items():
            run.warn(
                f"{problem}; the checkpoint before it is used, and this one is kept as "
                f"{set_aside(folder).name}"
            )
        name = found.folder.name if found.folder is not None else None
    name = broadcast_json(name)
    return run.directory / CHECKPOINTS_NAME / name if name is not None else None
