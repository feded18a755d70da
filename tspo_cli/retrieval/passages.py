"""Passages on disk, fetched by position. Only fetched passages become Python objects."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tspo_cli.console import track
from tspo_cli.data.readers import parse_passage, read_passages
from tspo_cli.errors import InvalidInputError

PASSAGES_NAME = "passages.jsonl"
OFFSETS_NAME = "offsets.npy"
_ROW = np.dtype([("end", "<i8"), ("crc", "<u4")])
"""Per line: the byte offset of its end, and its CRC-32. One row comes before the first line."""
_ROWS_AT_ONCE = 1 << 16


def write_passages(corpus: Path, directory: Path) -> int:
    """Write a corpus as `passages.jsonl` (`{"id", "contents"}` per line) and `offsets.npy`
    ([passages + 1] of _ROW).

    Returns the number of passages. Memory holds one passage at a time; a scratch file has 8 bytes
    of each id.

    Raises:
        MissingResourceError, InvalidInputError: as `read_passages`.
    """
    digests = directory / ".ids"
    # The offsets table is written last. If it exists, so do all passages,
    # and a killed build resumes there.
    with OffsetsWriter(directory / OFFSETS_NAME) as offsets:
        with open(directory / PASSAGES_NAME, "wb") as handle, open(digests, "wb") as ids:
            for passage in track(read_passages(corpus, distinct=False), "reading passages"):
                record = {"id": passage.id, "contents": passage.contents}
                # "replace": a lone surrogate, which JSON can spell, could not be served again.
                line = json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
                handle.write(line)
                offsets.add(line)
                ids.write(
                    hashlib.blake2b(passage.id.encode("utf-8", "replace"), digest_size=8).digest()
                )
        if _has_equal(digests):
            # This check keeps all ids in memory. It reports the two lines, or finds that only the
            # digests are equal.
            deque(read_passages(corpus), maxlen=0)
        digests.unlink()
    return offsets.count


def _has_equal(path: Path) -> bool:
    """Whether a file of 8-byte numbers has one twice. Sorts it in place, in mapped memory."""
    numbers = np.memmap(path, np.uint64, mode="r+")
    numbers.sort()
    starts = range(0, len(numbers) - 1, _ROWS_AT_ONCE)
    return any((np.diff(numbers[at : at + _ROWS_AT_ONCE + 1]) == 0).any() for at in starts)


def write_offsets(lines: Path, directory: Path) -> int:
    """Write the offsets of a JSONL file that is served without a copy; returns its passages.

    Every line has to be a passage: row n of the table is line n + 1.

    Raises:
        InvalidInputError: a line is blank, malformed, or no passage.
    """
    with open(lines, "rb") as handle, OffsetsWriter(directory / OFFSETS_NAME) as offsets:
        for position, line in enumerate(track(handle, "reading passages")):
            _passage(lines, position, line)
            offsets.add(line)
    return offsets.count


class OffsetsWriter:
    """Writes an offsets table row by row, so that memory does not grow with the corpus.

    The table appears when it is complete.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._scratch = path.with_name(path.name + ".rows")
        self._rows = np.zeros(_ROWS_AT_ONCE, _ROW)
        self._filled = 1
        self._end = 0
        self.count = 0

    def __enter__(self) -> OffsetsWriter:
        self._handle: IO[bytes] = open(self._scratch, "wb")
        return self

    def add(self, line: bytes) -> None:
        """Add the next line, including its newline."""
        self._end += len(line)
        self.count += 1
        if self._filled == _ROWS_AT_ONCE:
            self._flush()
        self._rows[self._filled] = (self._end, zlib.crc32(line))
        self._filled += 1

    def _flush(self) -> None:
        self._handle.write(self._rows[: self._filled].tobytes())
        self._filled = 0

    def __exit__(self, kind: object, *details: object) -> None:
        self._flush()
        self._handle.close()
        if kind is None:
            complete = self._path.with_name(f".{self._path.name}")
            with open(complete, "wb") as table:
                np.save(table, np.memmap(self._scratch, _ROW, mode="r"), allow_pickle=False)
            os.unlink(self._scratch)
            os.replace(complete, self._path)
        else:
            os.unlink(self._scratch)


class PassageStore:
    """Ids and contents by position, memory-mapped. Safe to read from several threads.

    Args:
        directory: the directory of the offsets table.
        lines: the JSONL file that the table describes. None: `passages.jsonl` in `directory`.

    Raises:
        InvalidInputError: the table does not describe this file.
    """

    def __init__(self, directory: Path, lines: Path | None = None) -> None:
        lines = lines or directory / PASSAGES_NAME
        rows: Any = np.load(directory / OFFSETS_NAME, mmap_mode="r", allow_pickle=False)
        self._ends: NDArray[np.int64] = rows["end"] if rows.dtype == _ROW else rows
        self._sums: NDArray[np.uint32] | None = rows["crc"] if rows.dtype == _ROW else None
        self._path = lines
        with open(lines, "rb") as handle:
            self._lines = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        if self._ends[-1] != len(self._lines):
            raise InvalidInputError(
                f"{lines}: expected {self._ends[-1]} bytes, got {len(self._lines)}; build the "
                "index again"
            )

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, position: int) -> tuple[str, str]:
        """(id, contents) of the passage at `position`, counted from 0.

        Raises:
            IndexError: there is no such position.
            InvalidInputError: the line differs from the one that was indexed.
        """
        if not 0 <= position < len(self):
            raise IndexError(position)
        line = self._lines[int(self._ends[position]) : int(self._ends[position + 1])]
        if self._sums is not None and zlib.crc32(line) != self._sums[position + 1]:
            raise InvalidInputError(
                f"{self._path}:{position + 1}: the passage is not the one that was indexed (its "
                "checksum differs); "
                "build the index again"
            )
        return _passage(self._path, position, line)

    def id(self, position: int) -> str:
        """The id of the passage at `position`. Raises as `__getitem__`."""
        return self[position][0]

    def contents(self, start: int = 0, stop: int | None = None) -> Iterator[str]:
        """The contents of the passages from `start` to before `stop`, in order."""
        return (self[position][1] for position in range(start, len(self) if stop is None else stop))


def _passage(path: Path, position: int, line: bytes) -> tuple[str, str]:
    """(id, contents) of a line in any form of `parse_passage`.

    The position replaces a missing id.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):  # also invalid UTF-8, and lists thousands of levels deep
        raise InvalidInputError(
            f"{path}:{position + 1}: expected one JSON object in UTF-8; correct the line"
        ) from None
    if (
        isinstance(record, dict)
        and isinstance(record.get("contents"), str)
        and isinstance(record.get("id"), str)
    ):
        identifier, contents = record["id"], record["contents"]
    elif isinstance(record, dict):
        passage = parse_passage(path, position + 1, {"id": position, **record})
        identifier, contents = passage.id, passage.contents
    else:
        raise InvalidInputError(
            f"{path}:{position + 1}: expected one JSON object per line; correct the line"
        )
    return (identifier, contents) if contents.isascii() else (identifier, _well_formed(contents))


def _well_formed(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
