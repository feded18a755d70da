"""FAISS files: opened without loading if possible; flat ones are written as a stream.

The layout of flat files (faiss/impl/index_write.cpp): a header, then all codes row by row to the
end of the file. FAISS reads back every file written here before it is used.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from tspo_cli.console import counted
from tspo_cli.disk import writing
from tspo_cli.errors import InvalidInputError

_FLAT = {b"IxFI", b"IxF2", b"IxFl"}
_SCALAR = b"IxSQ"
_ROWS_AT_ONCE = 65_536


def open_faiss(pieces: Sequence[Path]) -> Any:
    """A FAISS index from one file, memory-mapped, or from the pieces of one in their order.

    A flat index in pieces stays on disk; any other kind in pieces is read into memory.

    Raises:
        InvalidInputError: not a FAISS file, or a cut one.
    """
    kind = _magic(pieces[0])
    _limit_reading(sum(path.stat().st_size for path in pieces))
    with said_as_damage(pieces[0]):
        if len(pieces) > 1:
            reader: Any = faiss
            index = faiss.read_index(reader.PyCallbackIOReader(_PieceReader(pieces)))
        else:
            # Inverted lists and plain codes need different flags to be memory-mapped.
            flag = faiss.IO_FLAG_MMAP if kind.startswith(b"Iw") else faiss.IO_FLAG_MMAP_IFC
            index = faiss.read_index(str(pieces[0]), flag)
    _check_codes(index, pieces[0])
    return index


def _check_codes(index: Any, path: Path) -> None:
    """Refuse codes of another length than their quantiser reads, which FAISS does not compare."""
    while isinstance(index, faiss.IndexPreTransform):
        index = faiss.downcast_index(index.index)
    quantised = isinstance(index, (faiss.IndexPQ, faiss.IndexIVFPQ))
    if quantised and index.code_size != index.pq.code_size:
        raise InvalidInputError(
            f"{path}: not an intact FAISS index (codes of {index.code_size} bytes, the quantiser "
            f"reads {index.pq.code_size}); copy or build it again"
        )


@contextmanager
def said_as_damage(path: Path) -> Iterator[None]:
    """Turn an error of FAISS, which reads or searches a file, into an InvalidInputError of one
    line. Those of torch stay.
    """
    try:
        yield
    except RuntimeError as error:
        if "faiss" not in str(error):
            raise
        reason = str(error).strip().splitlines()[0].split(": ", 1)[-1]
        raise InvalidInputError(
            f"{path}: not an intact FAISS index ({reason[:160]}); copy or build it again"
        ) from None


def stored_rows(path: Path, index: Any, positions: NDArray[np.int64]) -> NDArray[np.float32]:
    """The vectors at `positions` of the index in `path`, as its codes have them, [n, dim].

    Raises:
        InvalidInputError: FAISS cannot give them, for the kind or the ids of the index.
    """
    ivf = faiss.try_extract_index_ivf(index)
    try:
        if ivf is not None:
            if isinstance(faiss.downcast_index(ivf), faiss.IndexIVFFastScan):
                raise RuntimeError("it has fast-scan lists")  # FAISS would crash
            ivf.make_direct_map()
        return np.stack([index.reconstruct(int(position)) for position in positions])
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0].split(": ", 1)[-1]
        raise InvalidInputError(
            f"{path}: its vectors cannot be read, to compare them with the passages "
            f"({reason[:160]}); build the index again, or import it with --least-cosine 0"
        ) from None


def check_positions(path: Path, index: Any) -> None:
    """Raises InvalidInputError unless the lists, or the map, of an index name each row once."""
    named = []
    ivf, whole = faiss.try_extract_index_ivf(index), faiss.downcast_index(index)
    if ivf is not None:
        lists: Any = ivf.invlists
        sizes = [(number, lists.list_size(number)) for number in range(lists.nlist)]
        parts = [faiss.rev_swig_ptr(lists.get_ids(number), size) for number, size in sizes if size]
        named.append(np.concatenate([*parts, np.empty(0, np.int64)]))
    if isinstance(whole, faiss.IndexIDMap):
        named.append(faiss.vector_to_array(whole.id_map))
    for rows in named:
        if not np.array_equal(np.sort(rows), np.arange(index.ntotal)):
            raise InvalidInputError(
                f"{path}: expected each of {index.ntotal:,} rows once in its lists; copy or build "
                "it again"
            )


class FlatRows:
    """The rows of a flat inner-product index (float32 or float16), mapped from its file or pieces.

    Attributes:
        ntotal, d: rows, and dimensions of a row.

    Raises:
        InvalidInputError: the pieces are shorter or longer than the header says.
    """

    def __init__(self, pieces: Sequence[Path]) -> None:
        maps = [np.memmap(path, np.uint8, mode="r") for path in pieces]
        self._maps = maps
        self._starts = np.cumsum([0, *(len(part) for part in maps)])
        head = self._bytes(0, min(120, int(self._starts[-1]))).tobytes()
        layout = _flat_layout(head, pieces[0])
        self.d, self.ntotal, self.dtype, self._base = layout
        self._table = (
            np.frombuffer(maps[0], self.dtype, self.ntotal * self.d, self._base).reshape(
                self.ntotal, self.d
            )
            if len(maps) == 1
            and len(maps[0]) >= self._base + self.ntotal * self.d * self.dtype.itemsize
            else None
        )
        expected = self._base + self.ntotal * self.d * self.dtype.itemsize
        if expected != self._starts[-1]:
            raise InvalidInputError(
                f"{pieces[0]}: expected {expected:,} bytes in all for "
                f"{counted(self.ntotal, 'vector')}, got {self._starts[-1]:,}; "
                "copy the index again, with every piece"
            )

    def __len__(self) -> int:
        return self.ntotal

    def block(self, start: int, stop: int) -> NDArray[Any]:
        """Rows from `start` up to `stop` in the file's dtype; a view unless a piece ends inside."""
        if self._table is not None:
            return self._table[start:stop]
        size = self.d * self.dtype.itemsize
        raw = self._bytes(self._base + start * size, self._base + stop * size)
        return np.frombuffer(raw, self.dtype).reshape(stop - start, self.d)

    def rows(self, positions: NDArray[np.int64]) -> NDArray[np.float32]:
        """The rows at `positions` as float32 [n, d]."""
        if self._table is not None:
            return self._table[positions].astype(np.float32)
        rows = [self.block(int(position), int(position) + 1)[0] for position in positions]
        return np.array(rows, np.float32).reshape(len(positions), self.d)

    def _bytes(self, start: int, stop: int) -> NDArray[np.uint8]:
        first = int(np.searchsorted(self._starts, start, "right")) - 1
        parts = []
        while start < stop:
            end = min(stop, int(self._starts[first + 1]))
            offset = int(self._starts[first])
            parts.append(self._maps[first][start - offset : end - offset])
            start, first = end, first + 1
        return (
            np.asarray(parts[0])
            if len(parts) == 1
            else np.concatenate(parts or [np.empty(0, np.uint8)])
        )


def is_flat(path: Path) -> bool:
    """Whether the file is a flat inner-product index in float32 or float16, so that `FlatRows` can
    read it.
    """
    with open(path, "rb") as handle:
        head = handle.read(120)
    return (
        head[:4] in _FLAT | {_SCALAR}
        and _flat_dtype(head) is not None
        and _metric(head) == faiss.METRIC_INNER_PRODUCT
    )


def write_flat(index: Any, blocks: Iterable[NDArray[np.float32]], rows: int, path: Path) -> None:
    """Write the `rows` vectors of `blocks` as a flat index; `index` is that index, still empty.

    Memory holds one block. The file is identical to the one that FAISS would write.
    """
    needed = rows * int(index.sa_code_size())
    with writing(path, needed), open(path, "wb") as handle:
        handle.write(flat_head(index, rows))
        for block in blocks:
            handle.write(index.sa_encode(np.ascontiguousarray(block, np.float32)).tobytes())
    written = open_faiss([path])
    if (
        written.ntotal != rows
        or written.d != index.d
        or written.sa_code_size() != index.sa_code_size()
    ):
        raise RuntimeError(
            f"{path}: FAISS does not read back what was written; this version has another layout"
        )


def write_whole(index: Any, path: Path) -> None:
    """Write any index as FAISS does. FAISS itself does not notice when its last bytes do not fit.

    Raises:
        WriteError: the file does not fit.
    """
    writer: Any = faiss
    with writing(path), open(path, "wb") as handle:
        faiss.write_index(index, writer.PyCallbackIOWriter(handle.write))


def flat_head(index: Any, rows: int) -> bytes:
    """The header of the file of a flat index with `rows` vectors; `index` is that index, empty."""
    head = bytearray(faiss.serialize_index(index).tobytes())
    # The header ends with the length of the codes, here 0: in floats for IndexFlat, else in bytes.
    unit = 4 if bytes(head[:4]) in _FLAT else 1
    struct.pack_into("<q", head, 8, rows)
    struct.pack_into("<Q", head, len(head) - 8, rows * index.code_size // unit)
    return bytes(head)


def is_streamable(index: Any) -> bool:
    """Whether `write_flat` can write this index: flat float32 or a scalar quantiser."""
    return isinstance(index, (faiss.IndexFlat, faiss.IndexScalarQuantizer))


_LARGEST_TABLE = 2 << 30
"""Bytes of the tables that FAISS computes while it opens an IVF index with product quantisation."""


def _limit_reading(size: int) -> None:
    """No table in a file of `size` bytes has more bytes or entries than the file, apart from those
    that FAISS computes: a length that lies would fill the memory before the file ends.
    """
    for name in ("vector_byte_limit", "loop_limit"):
        # Older versions of FAISS have no limits.
        set_limit = getattr(faiss, f"set_deserialization_{name}", None)
        if set_limit is not None:
            set_limit(max(size, _LARGEST_TABLE))


def _magic(path: Path) -> bytes:
    with open(path, "rb") as handle:
        return handle.read(4)


def _metric(head: bytes) -> int:
    return int(struct.unpack_from("<i", head, 33)[0]) if len(head) >= 37 else -1


def _flat_dtype(head: bytes) -> np.dtype[Any] | None:
    if head[:4] in _FLAT:
        return np.dtype("<f4")
    # The type of the scalar quantiser follows the header of 37 bytes.
    kind = struct.unpack_from("<i", head, 37)[0] if len(head) >= 41 else -1
    return (
        np.dtype("<f2") if head[:4] == _SCALAR and kind == faiss.ScalarQuantizer.QT_fp16 else None
    )


def _flat_layout(head: bytes, path: Path) -> tuple[int, int, np.dtype[Any], int]:
    """(d, ntotal, dtype, offset of the codes) from the first bytes of a flat index."""
    dtype = _flat_dtype(head)
    if dtype is None or _metric(head) != faiss.METRIC_INNER_PRODUCT:
        raise InvalidInputError(
            f"{path}: expected a flat inner-product index in float32 or float16"
        )
    d, ntotal = struct.unpack_from("<iq", head, 4)
    empty = (
        faiss.IndexFlatIP(d)
        if dtype.itemsize == 4
        else faiss.index_factory(d, "SQfp16", faiss.METRIC_INNER_PRODUCT)
    )
    return d, ntotal, dtype, len(faiss.serialize_index(empty))


class _PieceReader:
    """Reads consecutive pieces as one file. FAISS calls it with a number of bytes."""

    def __init__(self, pieces: Sequence[Path]) -> None:
        self._next_pieces = list(pieces)
        self._handle = open(self._next_pieces.pop(0), "rb")  # noqa: SIM115

    def __call__(self, size: int) -> bytes:
        data = self._handle.read(size)
        while not data and size and self._next_pieces:
            self._handle.close()
            self._handle = open(self._next_pieces.pop(0), "rb")  # noqa: SIM115
            data = self._handle.read(size)
        return data
