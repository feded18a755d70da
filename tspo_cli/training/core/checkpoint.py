"""Checkpoints to resume from: whole parameters and Adam moments as safetensors. A run may resume
with another number of processes or another ZeRO stage, and nothing is unpickled.

    CHECKPOINT/state.safetensors    param.<name>, exp_avg.<name>, exp_avg_sq.<name> in float32
    CHECKPOINT/critic.safetensors   the same of the critic, if there is one
    CHECKPOINT/state.json           {"updates": ..., "extra": {...}}, written last
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from tspo_cli.errors import InvalidInputError
from tspo_cli.runs import checkpoint_folders, follow_umask, read_json, write_json
from tspo_cli.training.core.distributed import barrier, rank
from tspo_cli.training.core.optimizer_state import (
    full_state,
    restore_state,
    set_update_count,
    trained_parameters,
    whole_shape,
)
from tspo_cli.training.core.training_core import TrainingCore

STATE, CRITIC, INDEX = "state.safetensors", "critic.safetensors", "state.json"


def save_checkpoint(
    policy: TrainingCore,
    directory: Path,
    extra: dict[str, Any],
    critic: TrainingCore | None = None,
) -> None:
    """Write a checkpoint whole or not at all. All processes call it; the first one writes."""
    temporary = directory.with_name(f".{directory.name}.tmp")
    if rank() == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    _save_core(policy, temporary / STATE)
    updates = {"updates": policy.updates}
    if critic is not None:
        _save_core(critic, temporary / CRITIC)
        updates["critic_updates"] = critic.updates
    if rank() == 0:
        write_json(temporary / INDEX, {**updates, "extra": extra})
        _flush(temporary)
        shutil.rmtree(directory, ignore_errors=True)
        temporary.rename(directory)
        _flush(directory.parent)
    barrier()


def _save_core(core: TrainingCore, path: Path) -> None:
    from safetensors.torch import save_file

    if not core.updates:  # a policy that waits for its critic has no moments yet
        core.allocate_moments()
        set_update_count(core.engine, 0)
    state = full_state(core.engine, core.module, keep=rank() == 0)
    if rank() == 0:
        save_file(state, path)
        follow_umask(path)
        _flush(path)


def load_checkpoint(
    policy: TrainingCore, directory: Path, critic: TrainingCore | None = None
) -> dict[str, Any]:
    """Restore the policy (and the critic) exactly; returns the `extra` that was saved. All
    processes call it.

    Raises:
        MissingResourceError: there is no checkpoint in `directory`.
        InvalidInputError: the checkpoint is damaged, or belongs to another model.
    """
    index = read_json(directory / INDEX)
    _load_core(policy, directory / STATE, index["updates"])
    if critic is not None:
        _load_core(critic, directory / CRITIC, index["critic_updates"])
    return dict(index["extra"])


def _load_core(core: TrainingCore, path: Path, updates: int) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
    except (OSError, SafetensorError) as error:
        raise InvalidInputError(
            f"{path}: damaged ({error}); delete {path.parent} and resume"
        ) from None
    shapes = {name: whole_shape(parameter) for name, parameter in trained_parameters(core.module)}
    saved = {
        name.removeprefix("param."): tuple(tensor.shape)
        for name, tensor in state.items()
        if name.startswith("param.")
    }
    if shapes != saved:
        other = sorted(set(shapes.items()) ^ set(saved.items()))[0][0]
        raise InvalidInputError(
            f"{path.parent}: belongs to another model (parameter {other} differs)"
        )
    core.allocate_moments()
    restore_state(core.engine, core.module, state, updates)
    core.updates = updates


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
