"""Checkpoints to resume from: whole parameters and Adam moments as safetensors. A run may resume
with another number of processes or another ZeRO stage, and nothing is unpickled.

    CHECKPOINT/state.safetensors    param.<name>, exp_avg.<name>, exp_avg_sq.<name> in float32; of
                                    several processes each writes a part (see checkpoint_files)
    CHECKPOINT/critic.safetensors   the same of the critic, if there is one
    CHECKPOINT/state.json           {"updates", "extra": {"step"}, "files": {NAME: {"bytes",
                                    "sha256"}}, "sha256": of all this}, written last; and for parts
                                    "parts": their number, "shapes": {"state": {<name>: SHAPE}}

Checkpoints without `files` and `sha256` come from version 0.2.0.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tspo_cli.digests import file_digest, json_digest
from tspo_cli.disk import WriteError, delete, flush_to_disk, reason, replace_directory
from tspo_cli.errors import InvalidInputError, MissingResourceError, TspoError
from tspo_cli.plain_files import require_plain
from tspo_cli.runs import checkpoint_folders, checkpoint_step, read_json, write_json
from tspo_cli.training.core.checkpoints.checkpoint_files import (
    SavedTensors,
    check_tensors,
    part_names,
    write_part,
    write_tensors,
)
from tspo_cli.training.core.distributed import barrier, gather_json, rank, world_size
from tspo_cli.training.core.optimizer_state import (
    full_state,
    own_fragments,
    restore_state,
    trained_parameters,
    whole_shape,
)
from tspo_cli.training.core.training_core import TrainingCore

STATE, CRITIC, INDEX = "state", "critic", "state.json"


def save_checkpoint(
    policy: TrainingCore,
    directory: Path,
    extra: dict[str, Any],
    critic: TrainingCore | None = None,
) -> None:
    """Write a checkpoint whole or not at all. All processes call it, and each writes a part.

    Raises:
        WriteError: a part of this process does not fit.
        TspoError: another process could not write its part.
    """
    temporary = directory.with_name(f".{directory.name}.tmp")
    cores = {STATE: policy} | ({CRITIC: critic} if critic is not None else {})
    try:
        if rank() == 0:
            delete(temporary)
            temporary.mkdir(parents=True)
        barrier()
        files = _write_parts(cores, temporary)
        if rank() == 0:
            index: dict[str, Any] = {"updates": policy.updates}
            if critic is not None:
                index["critic_updates"] = critic.updates
            index |= {"extra": extra, "files": files}
            if world_size() > 1:
                shapes = {name: _shapes(core) for name, core in cores.items()}
                index |= {"parts": world_size(), "shapes": shapes}
            write_json(temporary / INDEX, {**index, "sha256": json_digest(index)})
            flush_to_disk(temporary)
            replace_directory(temporary, directory)
            flush_to_disk(directory.parent)
    except (WriteError, TspoError):  # what does not fit leaves its room to others
        if rank() == 0:
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    barrier()


def _write_parts(cores: Mapping[str, TrainingCore], folder: Path) -> dict[str, dict[str, Any]]:
    """Write this process's files; bytes and digest of those of all processes, by name. A process
    that fails is known to all: nobody waits for it.
    """
    facts: dict[str, Any] = {}
    failure: OSError | None = None
    try:
        for name, core in cores.items():
            path = folder / part_names(name, world_size())[rank()]
            # A policy that waits for its critic has no moments yet.
            _write_part(core, path, has_moments=core.updates > 0)
            facts[path.name] = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
    except OSError as error:
        failure = error
    reasons = gather_json(reason(failure) if failure is not None else "")
    if failure is not None:
        raise failure
    for number, said in enumerate(reasons):
        if said:
            raise TspoError(f"process {number} could not write its part of a checkpoint: {said}")
    files = {name: fact for part in gather_json(facts) for name, fact in part.items()}
    absent = [name for name in sorted(files) if not (folder / name).is_file()]
    if rank() == 0 and absent:
        raise TspoError(
            f"{folder}: {absent[0]} of another process is not here; the run directory must be on a "
            "file system that all nodes share"
        )
    return {name: files[name] for name in sorted(files)}


def _write_part(core: TrainingCore, path: Path, *, has_moments: bool) -> None:
    if world_size() == 1:
        write_tensors(
            path, full_state(core.engine, core.module, keep=True, has_moments=has_moments)
        )
        return
    write_part(
        path,
        own_fragments(
            core.engine,
            core.module,
            has_moments=has_moments,
            rank=rank(),
            processes=world_size(),
        ),
    )


def _shapes(core: TrainingCore) -> dict[str, list[int]]:
    return {name: list(whole_shape(value)) for name, value in trained_parameters(core.module)}


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
    _load_core(policy, directory, STATE, index)
    if critic is not None:
        if "critic_updates" not in index:
            raise InvalidInputError(f"{directory}: has no critic; this algorithm trains one")
        _load_core(critic, directory, CRITIC, index)
    return dict(index["extra"])


def _load_core(core: TrainingCore, directory: Path, name: str, index: Mapping[str, Any]) -> None:
    with closing(_saved(directory, name, index)) as state:
        shapes = {key: tuple(shape) for key, shape in _shapes(core).items()}
        saved = {
            key.removeprefix("param."): state.shape(key)
            for key in state
            if key.startswith("param.")
        }
        if shapes != saved:
            other = sorted(set(shapes.items()) ^ set(saved.items()))[0][0]
            raise InvalidInputError(
                f"{directory}: belongs to another model (parameter {other} differs)"
            )
        updates = index["updates" if name == STATE else "critic_updates"]
        core.allocate_moments()
        restore_state(core.engine, core.module, state, updates)
        core.updates = updates


def _saved(directory: Path, name: str, index: Mapping[str, Any]) -> SavedTensors:
    parts = index.get("parts", 1)
    paths = [directory / file for file in part_names(name, parts)]
    return SavedTensors(paths, index["shapes"][name] if parts > 1 else None)


def check_checkpoint(directory: Path) -> None:
    """Read every file of a checkpoint and compare it with its digest.

    Raises:
        MissingResourceError: a file of it is missing.
        InvalidInputError: a file is damaged; the message names it.
    """
    index = _read_index(directory)
    recorded = index.get("files", {})
    for name in [STATE, CRITIC] if "critic_updates" in index else [STATE]:
        for file in part_names(name, index.get("parts", 1)):
            _check_file(directory / file, recorded)
        with closing(_saved(directory, name, index)) as state:
            check_tensors(state)


def _check_file(path: Path, recorded: Mapping[str, Any]) -> None:
    require_plain(path)
    if not path.exists():
        raise MissingResourceError(f"{path}: no such file")
    if recorded:
        facts = recorded.get(path.name, {})
        size = path.stat().st_size
        if size != facts.get("bytes"):
            raise InvalidInputError(
                f"{path}: damaged (it has {size} bytes, {facts.get('bytes')} were written)"
            )
        if file_digest(path) != facts.get("sha256"):
            raise InvalidInputError(f"{path}: damaged (its content is not what was written)")


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
        or not _are_parts(index)
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


def _are_parts(index: Mapping[str, Any]) -> bool:
    """Whether parts and shapes of an index fit together; it has both or none."""
    parts, shapes = index.get("parts", 1), index.get("shapes", {})
    if not _is_count(parts) or not isinstance(shapes, dict) or parts < 1:
        return False
    names = {STATE, CRITIC} if "critic_updates" in index else {STATE}
    return (parts == 1 and not shapes) or (
        set(shapes) == names
        and all(
            isinstance(sizes, dict)
            and all(
                isinstance(shape, list) and all(map(_is_count, shape)) for shape in sizes.values()
            )
            for sizes in shapes.values()
        )
    )


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
    delete(aside)
    return folder.rename(aside)


def prune(run: Path, keep: int) -> None:
    """Delete all checkpoints but the newest `keep`."""
    for folder in checkpoint_folders(run)[:-keep]:
        delete(folder)
