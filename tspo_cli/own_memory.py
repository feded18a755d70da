"""Weights that a library has mapped from a file: whoever writes that file changes them."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def leave_files(module: torch.nn.Module) -> None:
    """Copy the weights of a module on the CPU into the memory of this process, one after another.

    safetensors gives tensors that are pages of their file. Where a file is written over in its
    place, a model in use would compute with the new weights, or the process would die of SIGBUS.
    """
    for tensor in chain(module.parameters(), module.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()
