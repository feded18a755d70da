"""Checkpoints to resume from: whole parameters and Adam moments as safetensors. A run may resume
with another number of processes or another ZeRO stage, and nothing is unpickled.

    CHECKPOINT/state.safetensors    param.<name>, exp_avg.<name>, exp_avg_sq.<name> in float32
    CHECKPOINT/critic.safetensors   the same of the critic, if there is one
    CHECKPOINT/state.json           {"updates", "extra": {"step"}, "files": {NAME: {"bytes",
                                    "sha256"}}, "sha256": of all this}, written last

Checkpoints without `files` and `sha256` come from version 0.2.0.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tspo_cli.digests import file_digest, json_digest
from tspo_cli.disk import WriteError, flush_to_disk, follow_umask, replace_directory, writing
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.plain_files import require_plain
from tspo_cli.runs import checkpoint_folders, checkpoint_step, read_json, write_json
from tspo_cli.training.core.distributed import barrier, rank
from tspo_cli.training.core.optimizer_state import (
    MOMENTS,
    full_state,
    restore_state,
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
    try:
        if rank() == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
        _save_core(policy, temporary / STATE)
        updates = {"updates": policy.updates}
        if critic is not None:
            _save_core(critic, temporary / CRITIC)
            updates["critic_updates"] = critic.updates
        if rank() == 0:
            written = sorted(temporary.iterdir())
            files = {
                path.name: {"bytes": path.stat().st_size, "sha256": file_digest(path)}
                for path in written
            }
            index = {**updates, "extra": extra, "files": files}
            write_json(temporary / INDEX, {**index, "sha256": json_digest(index)})
            flush_to_disk(temporary)
            replace_directory(temporary, directory)
            flush_to_disk(directory.parent)
    except WriteError:  # what does not fit leaves its room to others
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    barrier()


def _save_core(core: TrainingCore, path: Path) -> None:
    from safetensors.torch import save_file

    # A policy that waits for its critic has no moments yet.
    state = full_state(core.engine, core.module, keep=rank() == 0, has_moments=core.updates > 0)
    if rank() == 0:
        with writing(path, sum(tensor.nbytes for tensor in state.values())):
            save_file(state, path)
            follow_umask(path)
            flush_to_disk(path)


def load_checkpoint(
    policy: TrainingCore, directory: Path, critic: TrainingCore | None = None
) -> dict[str, Any]:
    """Restore the policy (and the critic) exactly; returns the `extra` that was saved. All
    processes call it, after one of them has called `check_checkpoint`.

    Raises:
        MissingResourceError: there is no checkpoint in `directory`.
        InvalidInputError: the checkpoint is damaged, or belongs to another model.
    """
    index = _read_index(directory)
    _load_core(policy, directory / STATE, index["updates"])
    if critic is not None:
        if "critic_updates" not in index:
            raise InvalidInputError(f"{directory}: has no critic; this algorithm trains one")
        _load_core(critic, directory / CRITIC, index["critic_updates"])
    return dict(index["extra"])


def _load_core(core: TrainingCore, path: Path, updates: int) -> None:
    state = _read_state(path)
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


def check_checkpoint(directory: Path) -> None:
    """Read every file of a checkpoint and compare it with its digest.

    Raises:
        MissingResourceError: a file of it is missing.
        InvalidInputError: a file is damaged; the message names it.
    """
    index = _read_index(directory)
    recorded = index.get("files", {})
    for name in [STATE, CRITIC] if "critic_updates" in index else [STATE]:
        path = directory / name
        require_plain(path)
        if not path.exists():
            raise MissingResourceError(f"{path}: no such file")
        if recorded:
            facts = recorded.get(name, {})
            size = path.stat().st_size
            if size != facts.get("bytes"):
                raise InvalidInputError(
                    f"{path}: damaged (it has {size} bytes, {facts.get('bytes')} were written)"
                )
            if file_digest(path) != facts.get("sha256"):
                raise InvalidInputError(f"{path}: damaged (its content is not what was written)")
        _check_state(path, _read_state(path))


def _read_index(directory: Path) -> dict[str, Any]:
    """state.json with its types, its own digest and its step checked."""
    path = directory / INDEX
    index = read_json(path)
    if isinstance(index, dict) and "sha256" in index:
        digest = index.pop("sha256")
        if digest != json_digest(index):
            raise InvalidInputError(f"{path}: damaged (its content is not what was written)")
    step = checkpoint_step(directory)
    if (
        not isinstance(index, dict)
        or not _is_count(index.get("updates"))
        or not _is_count(index.get("critic_updates", 0))
        or not isinstance(index.get("extra"), dict)
        or not isinstance(index.get("files", {}), dict)
        or not all(isinstance(facts, dict) for facts in index.get("files", {}).values())
    ):
        raise InvalidInputError(f"{path}: damaged (it does not describe a checkpoint)")
    if step is not None and index["extra"].get("step") != step:
        raise InvalidInputError(
            f"{path}: damaged (it says step {index['extra'].get('step')!r}, the folder is of step "
            f"{step})"
        )
    return index


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _read_state(path: Path) -> Mapping[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except FileNotFoundError:
        raise MissingResourceError(f"{path}: no such file") from None
    except (OSError, SafetensorError) as error:
        raise InvalidInputError(f"{path}: damaged ({error})") from None


def _check_state(path: Path, state: Mapping[str, Any]) -> None:
    """Every parameter has both moments of its shape; all numbers are finite, no square below 0."""
    names = [name.removeprefix("param.") for name in state if name.startswith("param.")]
    if not names:
        raise InvalidInputError(f"{path}: damaged (it holds no parameters)")
    for name in names:
        parameter = state[f"param.{name}"]
        for key in ("param", *MOMENTS):
            tensor = state.get(f"{key}.{name}")
            if tensor is None or tensor.shape != parameter.shape:
                raise InvalidInputError(f"{path}: damaged ({key}.{name} is missing or cut)")
            if not tensor.is_floating_point() or not tensor.isfinite().all():
                raise InvalidInputError(
                    f"{path}: damaged ({key}.{name} holds numbers that are not finite)"
                )
        if (state[f"{MOMENTS[1]}.{name}"] < 0).any():
            raise InvalidInputError(f"{path}: damaged ({MOMENTS[1]}.{name} holds squares below 0)")


@dataclass(frozen=True, slots=True)
class FoundCheckpoint:
    """The newest whole checkpoint of a run, None without one, and what is wrong with newer ones."""

    folder: Path | None
    damaged: dict[Path, str]


def find_checkpoint(run: Path) -> FoundCheckpoint:
    """Check the checkpoints of a run directory, the newest first, until one is whole.

    Raises:
        InvalidInputError: there are checkpoints, and all of them are damaged.
    """
    damaged: dict[Path, str] = {}
    for folder in reversed(checkpoint_folders(run)):
        try:
            check_checkpoint(folder)
        except (InvalidInputError, MissingResourceError) as error:
            damaged[folder] = str(error)
        else:
            return FoundCheckpoint(folder, damaged)
    if damaged:
        raise InvalidInputError(
            f"{run}: no checkpoint is whole: {next(iter(damaged.values()))}; put back a copy of "
            "one, or start anew with --overwrite"
        )
    return FoundCheckpoint(None, damaged)


def set_aside(folder: Path) -> Path:
    """Rename a damaged checkpoint, so that it counts as none and nothing is lost."""
    aside = folder.with_name(f"damaged_{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    return folder.rename(aside)


def prune(run: Path, keep: int) -> None:
    """Delete all checkpoints but the newest `keep`."""
    for folder in checkpoint_folders(run)[:-keep]:
        shutil.rmtree(folder)
