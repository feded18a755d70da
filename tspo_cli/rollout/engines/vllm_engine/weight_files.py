"""Weights as safetensors files that learner and servers both see: in memory where they share a
machine, else in a shared folder. Each training process writes a part.
"""

from __future__ import annotations

import atexit
import os
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from tspo_cli.disk import follow_umask, writing
from tspo_cli.shares import shares

if TYPE_CHECKING:
    import torch

MEMORY = Path("/dev/shm")
"""A file system in memory: writing and reading it takes no disk."""
_VERSIONS = 2
"""Two versions lie there for a moment: the old one is deleted when all servers have the new one."""
_SPARE = 1.2
_SAMPLE = 4096
"""Numbers of each weight that tell one set of weights from another."""
_OWNER = "owner"
"""File with the process whose weights lie in memory."""


class WeightFiles:
    """The folder of each version of the weights.

    Args:
        folder: where versions lie, unless they lie in memory.
        run_id: tells this run's folder in memory from those of others.
        in_memory: learner and servers share a machine, so that memory may be used if it has room.
        rank: of this training process.
        world_size: number of training processes; each writes its part.
        barrier: returns when all processes have called it.
        memory: the file system in memory.
    """

    def __init__(
        self,
        folder: Path,
        run_id: str,
        *,
        in_memory: bool,
        rank: int,
        world_size: int,
        barrier: Callable[[], None],
        memory: Path = MEMORY,
    ) -> None:
        self.folder = folder
        self.rank, self.world_size, self.barrier = rank, world_size, barrier
        self._wish = memory / f"tspo-{os.getuid()}-{run_id}" if in_memory else None

    def of(self, version: str) -> Path:
        """The folder with the weights of `version`."""
        return self.folder / f"version_{version}"

    def write(self, weights: Mapping[str, torch.Tensor], version: str) -> None:
        """Write the weights; all processes call it with the same ones. The folder appears when it
        is complete.
        """

        def part(folder: Path) -> None:
            sizes = {name: tensor.nbytes for name, tensor in weights.items()}
            names = shares(sizes, self.world_size)[self.rank]
            if names:
                path = folder / f"part_{self.rank}.safetensors"
                _save({name: weights[name] for name in names}, path)

        self.write_files(part, version, sum(tensor.nbytes for tensor in weights.values()))

    def write_files(self, write: Callable[[Path], None], version: str, size: int) -> None:
        """Make the folder of `version` with what every process writes into it, `size` bytes
        together. It appears when it is complete.
        """
        self._choose_place(size)
        folder = self.of(version)
        temporary = folder.with_name(f".{folder.name}.tmp")
        if self.rank == 0:
            for path in (temporary, folder):
                shutil.rmtree(path, ignore_errors=True)
            temporary.mkdir(parents=True)
        self.barrier()
        write(temporary)
        self.barrier()
        if self.rank == 0:
            follow_umask(temporary)  # a server may run as another user
            temporary.rename(folder)
        self.barrier()

    def keep_only(self, *versions: str) -> None:
        """Delete all other versions. The first process calls it when every server has these."""
        kept = [self.of(version) for version in versions]
        for old in self.folder.glob("version_*"):
            if old not in kept:
                shutil.rmtree(old)

    def close(self) -> None:
        """Give memory back, at the latest when the process ends; the run's own folder stays."""
        if self.rank == 0 and _is_ours(self.folder):
            shutil.rmtree(self.folder, ignore_errors=True)

    def _choose_place(self, size: int) -> None:
        """The first time: memory, if it was wished for and has room. The first process decides, and
        the others see what it made.
        """
        wish, self._wish = self._wish, None
        if wish is None:
            return
        if self.rank == 0:
            _delete_abandoned(wish)
            room = wish.parent.is_dir() and shutil.disk_usage(wish.parent).free
            if room > _VERSIONS * _SPARE * size:
                with suppress(OSError):  # no permission, or the name is taken
                    wish.mkdir(mode=0o700)  # others on this machine may not read the weights
                    (wish / _OWNER).write_text(str(os.getpid()), encoding="utf-8")
        self.barrier()
        if _is_ours(wish):
            self.folder = wish
            atexit.register(self.close)


def digest_of(weights: Mapping[str, torch.Tensor]) -> str:
    """Tells weights apart by the first numbers of each. All processes get the same."""
    digest = blake2b(digest_size=8)
    for name, value in weights.items():
        first = value.detach().flatten()[:_SAMPLE].float().cpu()
        digest.update(name.encode() + first.numpy().tobytes())
    return digest.hexdigest()


def _save(weights: Mapping[str, torch.Tensor], path: Path) -> None:
    from safetensors.torch import save_file

    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    with writing(path, sum(tensor.nbytes for tensor in tensors.values())):
        save_file(tensors, path)


def _is_ours(folder: Path) -> bool:
    """Whether `folder` is a folder in memory that a run of this user made."""
    if folder.is_symlink() or not folder.is_dir() or folder.stat().st_uid != os.getuid():
        return False
    return (folder / _OWNER).is_file()


def _delete_abandoned(wish: Path) -> None:
    """Delete what runs of this user left in memory when they were killed, an earlier attempt of
    this run too.
    """
    for folder in wish.parent.glob(f"tspo-{os.getuid()}-*"):
        if not _is_ours(folder):
            continue
        owner = (folder / _OWNER).read_text(encoding="utf-8")
        if folder == wish or not (owner.isdigit() and Path(f"/proc/{owner}").exists()):
            shutil.rmtree(folder, ignore_errors=True)
