"""The tensors of a checkpoint on the disk: one file of one process, or a part of each process.

    NAME.safetensors               KEY.<parameter>, whole
    NAME.RANK-of-N.safetensors     KEY.<parameter>:START, numbers of the flat tensor from START on

KEY is param, exp_avg or exp_avg_sq. The shapes of tensors in parts are in the checkpoint's index.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tspo_cli.console import counted
from tspo_cli.disk import flush_to_disk, follow_umask, writing
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.text.whole_numbers import whole_number
from tspo_cli.training.core.optimizer_state import MOMENTS

if TYPE_CHECKING:
    import torch

Shapes = Mapping[str, Sequence[int]]
"""The whole shape of each parameter."""


def part_names(name: str, parts: int) -> list[str]:
    """The files of the state `name`, in the order of the processes that wrote them."""
    if parts == 1:
        return [f"{name}.safetensors"]
    return [f"{name}.{rank}-of-{parts}.safetensors" for rank in range(parts)]


def write_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write a file, and wait until it is on the disk.

    Raises:
        WriteError: it does not fit.
    """
    from safetensors.torch import save_file

    with writing(path, sum(tensor.nbytes for tensor in tensors.values())):
        save_file(tensors, path)
        follow_umask(path)
        flush_to_disk(path)


class SavedTensors(Mapping[str, "torch.Tensor"]):
    """Whole tensors by KEY.<parameter>, read when they are asked for.

    Args:
        paths: the files; several are parts.
        shapes: of the parameters, where the files are parts.

    Raises:
        MissingResourceError: a file is missing.
        InvalidInputError: a file cannot be read, or, when a tensor is asked for, numbers of it are
        missing.
    """

    def __init__(self, paths: Sequence[Path], shapes: Shapes | None = None) -> None:
        self.paths, self.whole_shapes, self._stack = list(paths), shapes, ExitStack()
        self._files: dict[Path, Any] = {path: self._open(path) for path in self.paths}
        self._places: dict[str, list[tuple[int, Path, str]]] = {}
        for path, file in self._files.items():
            for key in file.keys():  # noqa: SIM118  (not a dict)
                name, start = key, 0
                if shapes is not None:
                    name, _, digits = key.rpartition(":")
                    place = whole_number(digits)
                    if place is None:
                        raise InvalidInputError(f"{path}: damaged ({key} has no place)")
                    start = place
                self._places.setdefault(name, []).append((start, path, key))

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __getitem__(self, name: str) -> torch.Tensor:
        places = self._places[name]
        if self.whole_shapes is None:
            ((_, path, key),) = places
            return self._read(path, key)
        return self._join(name, sorted(places))

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, which is not read."""
        if self.whole_shapes is None:
            ((_, path, key),) = self._places[name]
            return tuple(self._files[path].get_slice(key).get_shape())
        return tuple(self.whole_shapes.get(name.partition(".")[2], ()))

    def close(self) -> None:
        """Close the files."""
        self._stack.close()

    def _join(self, name: str, places: Sequence[tuple[int, Path, str]]) -> torch.Tensor:
        import torch

        shape = self.shape(name)
        held = sum(
            math.prod(self._files[path].get_slice(key).get_shape()) for _, path, key in places
        )
        if held != math.prod(shape):  # before memory is taken for as many as the index says
            raise InvalidInputError(
                f"{self.paths[0].parent}: damaged ({name} has {held} of "
                f"{counted(math.prod(shape), 'number')})"
            )
        whole = torch.empty(shape, dtype=torch.float32)
        flat, filled = whole.view(-1), 0
        for start, path, key in places:
            values = self._read(path, key)
            end = start + values.numel()
            if start != filled or end > flat.numel() or values.dtype != flat.dtype:
                raise InvalidInputError(
                    f"{path}: damaged ({name} has {counted(filled, 'number')} in front, and "
                    f"{values.numel():,} here from {start} on)"
                )
            flat[start:end], filled = values.view(-1), end
        return whole

    def _open(self, path: Path) -> Any:
        from safetensors import SafetensorError, safe_open

        try:
            return self._stack.enter_context(safe_open(path, framework="pt"))
        except FileNotFoundError:
            raise MissingResourceError(f"{path}: no such file") from None
        except (OSError, SafetensorError) as error:
            raise InvalidInputError(f"{path}: damaged ({error})") from None

    def _read(self, path: Path, key: str) -> torch.Tensor:
        from safetensors import SafetensorError

        try:
            tensor: torch.Tensor = self._files[path].get_tensor(key)
        except (OSError, SafetensorError) as error:
            raise InvalidInputError(f"{path}: damaged ({error})") from None
        return tensor


def check_tensors(state: SavedTensors) -> None:
    """Every parameter has both moments of its shape; all numbers are finite, no square below 0.

    Raises:
        InvalidInputError: that is not so.
    """
    place = state.paths[0] if len(state.paths) == 1 else state.paths[0].parent
    names = [name.removeprefix("param.") for name in state if name.startswith("param.")]
    if not names:
        raise InvalidInputError(f"{place}: damaged (it holds no parameters)")
    for name in names:
        shape = state.shape(f"param.{name}")
        for key in ("param", *MOMENTS):
            tensor = state.get(f"{key}.{name}")
            if tensor is None or tensor.shape != shape:
                raise InvalidInputError(f"{place}: damaged ({key}.{name} is missing or cut)")
            if not tensor.is_floating_point() or not tensor.isfinite().all():
                raise InvalidInputError(
                    f"{place}: damaged ({key}.{name} holds numbers that are not finite)"
                )
            if key == MOMENTS[1] and (tensor < 0).any():
                raise InvalidInputError(f"{place}: damaged ({key}.{name} holds squares below 0)")
