"""Passages on disk, fetched by position: only what is asked for becomes a Python object."""

from __future__ import annotations

import json
import mmap
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from tspo_cli.data.schema import Passage

PASSAGES_NAME = "passages.jsonl"
OFFSETS_NAME = "offsets.npy"


def write_passages(passages: Iterable[Passage], directory: Path) -> int:
    """Write `passages.jsonl` (`{"id", "contents"}` per line) and `offsets.npy` (int64, [passages + 1], bytes).

    Returns the number of passages. One passage is held at a time.
    """
    offsets = array("q", [0])
    end = 0
    with open(directory / PASSAGES_NAME, "wb") as handle:
        for passage in passages:
            record = {"id": passage.id, "contents": passage.contents}
            # "replace": a lone surrogate, which JSON can spell, could not be served again.
            end += handle.write(json.dumps(record, ensure_ascii=False).encode("utf-8", "replace") + b"\n")
            offsets.append(end)
    np.save(directory / OFFSETS_NAME, np.frombuffer(offsets, dtype=np.int64), allow_pickle=False)
    return len(offsets) - 1


class PassageStore:
    """Ids and contents by position, memory-mapped. Safe to read from several threads."""

    def __init__(self, directory: Path) -> None:
        self._offsets = np.load(directory / OFFSETS_NAME, mmap_mode="r", allow_pickle=False)
        with open(directory / PASSAGES_NAME, "rb") as handle:
            self._lines = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._offsets) - 1

    def __getitem__(self, position: int) -> tuple[str, str]:
        """(id, contents) of the passage at `position`, counted from 0."""
        if not 0 <= position < len(self):
            raise IndexError(position)
        line = self._lines[int(self._offsets[position]) : int(self._offsets[position + 1])]
        record = json.loads(line)
        return record["id"], record["contents"]

    def contents(self) -> Iterator[str]:
        """The contents of all passages in order."""
        return (self[position][1] for position in range(len(self)))
