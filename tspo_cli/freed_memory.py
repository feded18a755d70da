"""How the C library treats freed memory."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

# mallopt(3): parameters of glibc's malloc, and values for models whose tensors are megabytes.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT_BYTES, _LARGEST_BLOCK = 2**31 - 1, 2**29
# Variables with which a user sets the same.
_SET_BY_USER = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Let this process keep memory that it frees, for its next tensors. Returns whether it does.

    glibc hands a large block back to the system at once, so that the next tensor of the same size
    gets new pages. On a virtual machine the system takes longer to provide a page than an
    elementwise operation to fill it. Other C libraries, and what a user has set, stay as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None or any(name in os.environ for name in _SET_BY_USER):
        return False
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK) and mallopt(_TRIM_THRESHOLD, _KEPT_BYTES))


_GPU_DEVICE = Path("/dev/nvidiactl")


def use_expandable_segments() -> None:
    """Let PyTorch's blocks of GPU memory grow, so that less is lost between them. Call it before
    torch is imported. What a user has set stays as it is.
    """
    names = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
    if _GPU_DEVICE.exists() and not any(name in os.environ for name in names):
        os.environ[names[0]] = "expandable_segments:True"
