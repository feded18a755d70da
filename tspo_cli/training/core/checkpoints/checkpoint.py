"""Checkpoints to resume from: whole parameters and Adam moments as safetensors. A run may resume
with another number of processes or another ZeRO stage, and nothing is unpickled.

    CHECKPOINT/state.safetensors    param.<name>, exp_avg.<name>, exp_avg_sq.<name> in float32; of
                                    several processes each writes a part (see checkpoint_files)
    CHECKPOINT/critic.safetensors   the same of the critic, if there is one
    CHECKPOINT/state.json           {"updates", "extra": {"step", "experiment"}, "files":
                                    {NAME: {"bytes", "sha256"}}, "sha256": of all this}, written
                                    last; and for parts "parts": their number, "shapes": {"state":
                                    {<name>: SHAPE}}

Checkpoints without `files` and `sha256` come from version 0.2.0.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tspo_cli.console import counted
from tspo_cli.digests import file_digest, json_digest
from tspo_cli.disk import WriteError, delete, flush_to_disk, reason, replace_directory
from tspo_cli.errors import InvalidInputError, MissingResourceError, TspoError
from tspo_cli.plain_files import require_plain
from tspo_cli.runs import checkpoint_folders, checkpoint_step, read_json, write_json
from tspo_cli.training.core.checkpoints.checkpoint_files import (
    SavedTensors,
    check_tensors,
    part_names,
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

if TYPE_CHECKING:
    import torch

STATE, CRITIC, INDEX = "state", "critic", "state.json"
_MOST_PARTS = 2**16


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
    begin_checkpoint(policy, directory, extra, critic).finish()


def begin_checkpoint(
    policy: TrainingCore,
    directory: Path,
    extra: dict[str, Any],
    critic: TrainingCore | None = None,
) -> UnfinishedCheckpoint:
    """`save_checkpoint` that writes in the background, until `finish` is called. All processes call
    both. Until then no weights and moments may change: the writer reads those of a CPU in place.

    Raises:
        WriteError: the folder cannot be made.
    """
    cores = {STATE: policy} | ({CRITIC: critic} if critic is not None else {})
    index: dict[str, Any] = {"updates": policy.updates}
    if critic is not None:
        index["critic_updates"] = critic.updates
    index["extra"] = extra
    if world_size() > 1:
        shapes = {name: _shapes(core) for name, core in cores.items()}
        index |= {"parts": world_size(), "shapes": shapes}
    temporary = directory.with_name(f".{directory.name}.tmp")
    if rank() == 0:
        delete(temporary)
        temporary.mkdir(parents=True)
    barrier()
    # A policy that waits for its critic has no moments yet.
    parts = {
        part_names(name, world_size())[rank()]: _own_state(core, has_moments=core.updates > 0)
        for name, core in cores.items()
    }
    return UnfinishedCheckpoint(directory, temporary, index, parts)


class UnfinishedCheckpoint:
    """A checkpoint whose files a thread of each process writes."""

    def __init__(
        self,
        directory: Path,
        temporary: Path,
        index: dict[str, Any],
        parts: dict[str, dict[str, torch.Tensor]],
    ) -> None:
        self._directory, self._temporary, self._index = directory, temporary, index
        self._files: dict[str, dict[str, Any]] = {}
        self._failure: Exception | None = None
        # A daemon: a second signal ends the process at once, and what is there counts for nothing.
        self._writer = threading.Thread(target=self._write, args=(parts,), daemon=True)
        self._writer.start()

    def finish(self) -> None:
        """Wait for all files of all processes, and put the checkpoint in its place.

        Raises:
            WriteError: a part of this process does not fit.
            TspoError: another process could not write its part.
        """
        self._writer.join()
        try:
            files = self._files_of_all()
            if rank() == 0:
                index = self._index | {"files": files}
                write_json(self._temporary / INDEX, {**index, "sha256": json_digest(index)})
                flush_to_disk(self._temporary)
                replace_directory(self._temporary, self._directory)
                flush_to_disk(self._directory.parent)
        except (WriteError, TspoError):  # what does not fit leaves its room to others
            if rank() == 0:
                shutil.rmtree(self._temporary, ignore_errors=True)
            raise
        barrier()

    def _write(self, parts: dict[str, dict[str, torch.Tensor]]) -> None:
        try:
            for name in list(parts):
                path = self._temporary / name
                write_tensors(path, parts.pop(name))
                self._files[name] = {"bytes": path.stat().st_size, "sha256": file_digest(path)}
        except Exception as error:  # `finish` raises it where the run can end of it
            self._failure = error

    def _files_of_all(self) -> dict[str, dict[str, Any]]:
        """Bytes and digest of the files of all processes, by name. A process that failed is known
        to all: nobody waits for it.
        """
        failure, folder = self._failure, self._temporary
        said = reason(failure) if isinstance(failure, OSError) else str(failure or "")
        reasons = gather_json(said)
        if failure is not None:
            raise failure
        for number, other in enumerate(reasons):
            if other:
                raise TspoError(
                    f"process {number} could not write its part of a checkpoint: {other}"
                )
        files = {name: fact for part in gather_json(self._files) for name, fact in part.items()}
        absent = [name for name in sorted(files) if not (folder / name).is_file()]
        if rank() == 0 and absent:
            raise TspoError(
                f"{folder}: {absent[0]} of another process is not here; the run directory must be "
                "on a file system that all nodes share"
            )
        return {name: files[name] for name in sorted(files)}


def _own_state(core: TrainingCore, *, has_moments: bool) -> dict[str, torch.Tensor]:
    """What this process writes of the state of `core`, in CPU memory."""
    if world_size() == 1:
        return full_state(core.engine, core.module, keep=True, has_moments=has_moments)
    fragments = own_fragments(
        core.engine,
        core.module,
        has_moments=has_moments,
        rank=rank(),
        processes=world_size(),
    )
    return {f"{part.name}:{part.start}": part.values for part in fragments}


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
    policy.before_change()
    _load_core(policy, directory, STATE, index)
    if critic is not None:
        if "critic_updates" not in index:
            raise InvalidInputError(f"{directory}: has no critic; this algorithm trains one")
        _load_core(critic, directory, CRITIC, index)
    return dict(index["extra"])


def forget_extra(directory: Path, name: str) -> None:
    """Write the index of a checkpoint again, without `name` in its `extra`."""
    index = _read_index(directory)
    index["extra"].pop(name, None)
    write_json(directory / INDEX, {**index, "sha256": json_digest(index)})


def policy_state(directory: Path) -> SavedTensors:
    """The tensors of the policy in a checkpoint, to be closed by the caller.

    Raises:
        MissingResourceError, InvalidInputError: the checkpoint cannot be read.
    """
    return _saved(directory, STATE, _read_index(directory))


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


def check_checkpoint(directory: Path, experiment: str | None = None) -> None:
    """Read every file of a checkpoint and compare it with its digest. `experiment` is what the
    `extra` of a checkpoint of the same run has under that name, unless it has nothing there.

    Raises:
        MissingResourceError: a file of it is missing.
        InvalidInputError: a file is damaged, and the message names it; or it is the checkpoint of
            another run.
    """
    index = _read_index(directory)
    if experiment is not None and index["extra"].get("experiment", experiment) != experiment:
        raise InvalidInputError(
            f"{directory}: is a checkpoint of another run, whose experiment or inputs differ"
        )
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
                f"{path}: damaged (it has {counted(size, 'byte')}, {facts.get('bytes')} were "
                "written)"
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
    if not _is_count(parts) or not isinstance(shapes, dict) or not 1 <= parts <= _MOST_PARTS:
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


def find_checkpoint(run: Path, experiment: str | None = None) -> FoundCheckpoint:
    """Check the checkpoints of a run directory, the newest first, until one is whole and of this
    `experiment` (`check_checkpoint`).

    Raises:
        InvalidInputError: there are checkpoints, and all of them are damaged or of other runs.
    """
    damaged: dict[Path, str] = {}
    for folder in reversed(checkpoint_folders(run)):
        try:
            check_checkpoint(folder, experiment)
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
    """Rename a damaged or foreign checkpoint, so that it counts as none and nothing is lost."""
    aside = folder.with_name(f"damaged_{folder.name}")
    delete(aside)
    return folder.rename(aside)


def prune(run: Path, keep: int, needed: Collection[int] = ()) -> None:
    """Delete all checkpoints but the newest `keep` and those of the steps that are `needed`."""
    for folder in checkpoint_folders(run)[:-keep]:
        if checkpoint_step(folder) not in needed:
            delete(folder)
