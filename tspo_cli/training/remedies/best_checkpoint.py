"""Checkpoints of a run's best evaluations, optimiser included: what reset_to_best goes back to.

Which of them is the best at a step follows from the evaluations on disk up to that step. So a run
that is resumed from an earlier checkpoint needs the one that was the best then: it is kept too.
"""

from __future__ import annotations

from pathlib import Path

from tspo_cli.disk import delete
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.runs import (
    BEST_CHECKPOINTS_NAME,
    best_checkpoints,
    checkpoint_folders,
    checkpoint_step,
    step_name,
)
from tspo_cli.training.best import evaluated_score
from tspo_cli.training.core.checkpoints.checkpoint import (
    check_checkpoint,
    load_checkpoint,
    save_checkpoint,
    set_aside,
)
from tspo_cli.training.core.distributed import barrier, broadcast_json
from tspo_cli.training.launch.same_experiment import EXPERIMENT
from tspo_cli.training.launch.training_run import TrainingRun


def keep_best_checkpoint(run: TrainingRun, step: int) -> None:
    """Write the checkpoint of `step`, which was evaluated, if no kept one was better. All processes
    call it.
    """
    if not broadcast_json(_is_better(run, step) if run.is_main_process else None):
        return
    folder = run.directory / BEST_CHECKPOINTS_NAME / step_name(step)
    critic = run.critic.core if run.critic is not None else None
    save_checkpoint(run.learner.core, folder, {"step": step, **run.belongs}, critic)
    if run.is_main_process:
        _prune(run)
    barrier()


def load_best_checkpoint(run: TrainingRun, step: int) -> int | None:
    """Load the best whole checkpoint up to `step`, and give the engine its weights. Returns its
    step, None if there is none. That of `step` itself is what the run has now: it is not loaded.
    All processes call it.
    """
    best: int | None = broadcast_json(_whole_best(run, step) if run.is_main_process else None)
    if best is None or best == step:
        return best
    folder = run.directory / BEST_CHECKPOINTS_NAME / step_name(best)
    load_checkpoint(run.learner.core, folder, run.critic.core if run.critic is not None else None)
    run.hand_over(step)
    return best


def forget_later_checkpoints(run: Path, step: int) -> None:
    """Delete the best checkpoints after `step`: a resumed run makes them again."""
    for later, folder in best_checkpoints(run):
        if later > step or step == 0:
            delete(folder)


def _whole_best(run: TrainingRun, step: int) -> int | None:
    """As `_best`; damaged checkpoints are set aside, with a warning."""
    while (best := _best(run, step)) is not None:
        folder = run.directory / BEST_CHECKPOINTS_NAME / step_name(best)
        try:
            check_checkpoint(folder, run.belongs.get(EXPERIMENT))
        except (InvalidInputError, MissingResourceError) as error:
            run.warn(
                f"{error}; reset_to_best goes on without it, and it is kept as "
                f"{set_aside(folder).name}"
            )
        else:
            return best
    return None


def _is_better(run: TrainingRun, step: int) -> bool:
    score = evaluated_score(run.config, run.directory, step)
    best = _best(run, step - 1)
    if score is None or best is None:
        return score is not None
    before = evaluated_score(run.config, run.directory, best)
    return before is None or score > before


def _best(run: TrainingRun, step: int) -> int | None:
    """The step of the best kept checkpoint up to `step`; among equals the earlier one."""
    scores = {
        kept: score
        for kept, _ in best_checkpoints(run.directory)
        if kept <= step and (score := evaluated_score(run.config, run.directory, kept)) is not None
    }
    return max(scores, key=lambda kept: (scores[kept], -kept)) if scores else None


def _prune(run: TrainingRun) -> None:
    """Keep what is the best now, or was at a checkpoint that the run may be resumed from."""
    steps = [checkpoint_step(folder) or 0 for folder in checkpoint_folders(run.directory)]
    kept = best_checkpoints(run.directory)
    needed = {_best(run, step) for step in (*steps, *(step for step, _ in kept[-1:]))}
    for step, folder in kept:
        if step not in needed:
            delete(folder)
