"""Checkpoints to resume from: whole parameters and Adam moments as safetensors, so that neither the
number of processes nor the ZeRO stage is fixed by them, and nothing is unpickled.

    CHECKPOINT/state.safetensors    param.<name>, exp_avg.<name>, exp_avg_sq.<name> in float32
    CHECKPOINT/critic.safetensors   the same of a critic, where there is one
    CHECKPOINT/state.json           {"updates": ..., "extra": {...}}, written last
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from tspo_cli.errors import InvalidInputError
from tspo_cli.runs import checkpoint_folders, read_json, write_json
from tspo_cli.training.core.distributed import barrier, rank
from tspo_cli.training.core.learner import Learner
from tspo_cli.training.core.optimizer_state import (
    full_state,
    restore_state,
    set_update_count,
    trained,
    whole_shape,
)

STATE, CRITIC, INDEX = "state.safetensors", "critic.safetensors", "state.json"


def save_checkpoint(
    learner: Learner, directory: Path, extra: dict[str, Any], critic: Learner | None = None
) -> None:
    """Write a checkpoint whole or not at all; all processes call it, the first writes."""
    from safetensors.torch import save_file

    temporary = directory.with_name(f".{directory.name}.tmp")
    if rank() == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    for one, name in ((learner, STATE), (critic, CRITIC)):
        if one is not None:
            if not one.updates:  # a policy that waits for its critic has no moments yet
                one.allocate_moments()
                set_update_count(one.engine, 0)
            state = full_state(one.engine, one.module, keep=rank() == 0)
            if rank() == 0:
                save_file(state, temporary / name)
                _flush(temporary / name)
    if rank() == 0:
        updates = {"updates": learner.updates} | (
            {"critic_updates": critic.updates} if critic is not None else {}
        )
        write_json(temporary / INDEX, {**updates, "extra": extra})
        _flush(temporary)
        shutil.rmtree(directory, ignore_errors=True)
        temporary.rename(directory)
        _flush(directory.parent)
    barrier()


def load_checkpoint(
    learner: Learner, directory: Path, critic: Learner | None = None
) -> dict[str, Any]:
    """Restore the learner exactly; returns the `extra` that was saved. All processes call it.

    Raises:
        MissingResourceError: there is no checkpoint in `directory`.
        InvalidInputError: the checkpoint is damaged, or belongs to another model.
    """
    index = read_json(directory / INDEX)
    _load(learner, directory, STATE, index["updates"])
    if critic is not None:
        _load(critic, directory, CRITIC, index["critic_updates"])
    return dict(index["extra"])


def _load(learner: Learner, directory: Path, name: str, updates: int) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(directory / name)
    except (OSError, SafetensorError) as error:
        raise InvalidInputError(
            f"{directory / name}: damaged ({error}); delete {directory} and resume"
        ) from None
    shapes = {name: whole_shape(one) for name, one in trained(learner.module)}
    saved = {
        name.removeprefix("param."): tuple(one.shape)
        for name, one in state.items()
        if name.startswith("param.")
    }
    if shapes != saved:
        other = sorted(set(shapes.items()) ^ set(saved.items()))[0][0]
        raise InvalidInputError(
            f"{directory}: belongs to another model (parameter {other} differs)"
        )
    learner.allocate_moments()
    restore_state(learner.engine, learner.module, state, updates)
    learner.updates = updates


def latest_checkpoint(run: Path) -> Path | None:
    """The newest whole checkpoint of a run directory."""
    whole = [folder for folder in checkpoint_folders(run) if (folder / INDEX).exists()]
    return whole[-1] if whole else None


def prune(run: Path, keep: int) -> None:
    """Delete all checkpoints but the newest `keep`, and what a killed attempt left behind."""
    unfinished = sorted(run.glob("checkpoints/.step_*.tmp"))
    for folder in checkpoint_folders(run)[:-keep] + unfinished:
        shutil.rmtree(folder)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
