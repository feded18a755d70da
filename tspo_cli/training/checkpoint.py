"""Checkpoints to resume from: whole parameters and Adam moments as safetensors, so that neither the number of processes
nor the ZeRO stage is fixed by them, and nothing is unpickled.

    CHECKPOINT/state.safetensors    param.<name>, exp_avg.<name>, exp_avg_sq.<name> in float32
    CHECKPOINT/state.json           {"updates": ..., "extra": {...}}, written last
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from tspo_cli.errors import InvalidInputError
from tspo_cli.runs import read_json, write_json
from tspo_cli.training.distributed import barrier, rank
from tspo_cli.training.learner import Learner
from tspo_cli.training.optimizer_state import full_state, restore_state, whole_shape

STATE, INDEX = "state.safetensors", "state.json"


def save_checkpoint(learner: Learner, directory: Path, extra: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all; all processes call it, the first writes."""
    from safetensors.torch import save_file

    state = full_state(learner.engine, learner.module, keep=rank() == 0)
    if rank() == 0:
        temporary = directory.with_name(f".{directory.name}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        save_file(state, temporary / STATE)
        _flush(temporary / STATE)
        write_json(temporary / INDEX, {"updates": learner.updates, "extra": extra})
        _flush(temporary)
        shutil.rmtree(directory, ignore_errors=True)
        temporary.rename(directory)
        _flush(directory.parent)
    barrier()


def load_checkpoint(learner: Learner, directory: Path) -> dict[str, Any]:
    """Restore the learner exactly; returns the `extra` that was saved. All processes call it.

    Raises:
        MissingResourceError: there is no checkpoint in `directory`.
        InvalidInputError: the checkpoint is damaged, or belongs to another model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    index = read_json(directory / INDEX)
    try:
        state = load_file(directory / STATE)
    except (OSError, SafetensorError) as error:
        raise InvalidInputError(f"{directory / STATE}: damaged ({error}); delete {directory} and resume") from None
    shapes = {name: whole_shape(one) for name, one in learner.module.named_parameters()}
    saved = {name.removeprefix("param."): tuple(one.shape) for name, one in state.items() if name.startswith("param.")}
    if shapes != saved:
        other = sorted(set(shapes.items()) ^ set(saved.items()))[0][0]
        raise InvalidInputError(f"{directory}: belongs to another model (parameter {other} differs)")
    learner.allocate_moments()
    restore_state(learner.engine, learner.module, state, index["updates"])
    learner.updates = index["updates"]
    return dict(index["extra"])


def latest_checkpoint(run: Path) -> Path | None:
    """The newest whole checkpoint of a run directory."""
    found = sorted(path.parent for path in (run / "checkpoints").glob(f"step_*/{INDEX}"))
    return found[-1] if found else None


def prune(run: Path, keep: int) -> None:
    """Delete all checkpoints but the newest `keep`, and what a killed attempt left behind."""
    folder = run / "checkpoints"
    for path in sorted(folder.glob("step_*"))[:-keep] + sorted(folder.glob(".step_*.tmp")):
        shutil.rmtree(path)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
