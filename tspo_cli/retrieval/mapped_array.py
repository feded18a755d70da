"""The NumPy files of an index, mapped. They may come from anyone: form and type are checked."""

from __future__ import annotations

from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tspo_cli.errors import InvalidInputError

_UNREADABLE = (
    *(ValueError, TypeError, EOFError, OverflowError),
    *(SyntaxError, TokenError, MemoryError, RecursionError),
)
"""What NumPy raises for a header, which it reads as an expression of Python. Mapping takes no
memory.
"""


def map_array(path: Path, dtypes: tuple[np.dtype[Any], ...], dimensions: int) -> NDArray[Any]:
    """The array of a file, mapped.

    Raises:
        InvalidInputError: the file is damaged or no array, or its type is none of `dtypes` (to the
            order of the bytes), or it has another number of dimensions, or more follows it.
    """
    try:
        array: np.memmap[Any, Any] = np.lib.format.open_memmap(path, mode="r")
    except _UNREADABLE as error:
        reason = str(error).split(".")[0][:120] or "its header"
        raise InvalidInputError(f"{path}: damaged ({reason}); build the index again") from None
    if array.dtype not in dtypes or array.ndim != dimensions:
        names = " or ".join(map(str, dtypes))
        raise InvalidInputError(
            f"{path}: expected {names} in {dimensions} dimension{'s' * (dimensions > 1)}, got "
            f"{array.dtype} {array.shape}; build the index again"
        )
    size = path.stat().st_size
    if size != array.offset + array.nbytes:
        raise InvalidInputError(
            f"{path}: expected {array.offset + array.nbytes:,} bytes, as its header says, got "
            f"{size:,}; build the index again"
        )
    return array
