"""Encoding passages shard by shard. A killed build resumes, and gives the same bytes."""

from __future__ import annotations

import hashlib
import io
import math
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tspo_cli.console import duration, progress
from tspo_cli.disk import atomic_write_bytes
from tspo_cli.retrieval.dense.encoder import Encoder
from tspo_cli.retrieval.passages import PassageStore


class ShardedVectors:
    """The vectors of a corpus in files of `shard_size` rows, named by number and digest.

    A file appears when it is complete. A file whose bytes do not have the digest of its name is
    ignored.
    """

    def __init__(self, directory: Path, rows: int, shard_size: int, dtype: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._rows = rows
        self._size = shard_size
        self._dtype = np.dtype(dtype)
        self.shards = math.ceil(rows / shard_size)

    def encode(self, store: PassageStore, encoder: Encoder) -> None:
        """Encode every passage whose shard is missing."""
        missing = [shard for shard in range(self.shards) if self._find(shard) is None]
        kept = self._rows - sum(len(range(*self.span(shard))) for shard in missing)
        with progress("encoding passages", self._rows) as advance:
            advance(kept, f"{kept} from an earlier build" if kept else "")
            started, done = time.monotonic(), 0
            for shard in missing:
                start, stop = self.span(shard)
                vectors = encoder.encode_passages(list(store.contents(start, stop)))
                self.put(shard, vectors)
                done += stop - start
                speed = done / (time.monotonic() - started)
                left = (self._rows - kept - done) / speed
                advance(stop - start, f"{speed:.0f} passages/s, {duration(left)} left")

    def put(self, shard: int, vectors: NDArray[np.float32]) -> None:
        """Write one shard atomically."""
        buffer = io.BytesIO()
        np.save(buffer, vectors.astype(self._dtype), allow_pickle=False)
        payload = buffer.getvalue()
        name = f"{shard:07d}.{hashlib.sha256(payload).hexdigest()[:16]}.npy"
        atomic_write_bytes(self._directory / name, payload)

    def span(self, shard: int) -> tuple[int, int]:
        """The first row of a shard, and the row after its last one."""
        return shard * self._size, min((shard + 1) * self._size, self._rows)

    def blocks(self) -> Iterator[NDArray[np.float32]]:
        """All vectors in order, a shard at a time."""
        for shard in range(self.shards):
            yield self.block(shard)

    def block(self, shard: int) -> NDArray[np.float32]:
        """The vectors of one shard, float32 [rows, dim]."""
        path = self._find(shard, check=False)
        assert path is not None, f"shard {shard} has not been encoded"
        return np.load(path, allow_pickle=False).astype(np.float32)

    def sample(self, most: int) -> NDArray[np.float32]:
        """At most `most` evenly spread vectors [n, dim], which train a compressed index."""
        step = max(1, math.ceil(self._rows / most))
        sampled = np.empty((math.ceil(self._rows / step), self.block(0).shape[1]), np.float32)
        for shard in range(self.shards):
            start, stop = self.span(shard)
            sampled[math.ceil(start / step) : math.ceil(stop / step)] = self.block(shard)[
                -start % step :: step
            ]
        return sampled

    def _find(self, shard: int, *, check: bool = True) -> Path | None:
        for path in self._directory.glob(f"{shard:07d}.*.npy"):
            digest = path.name.split(".")[1]
            if not check or hashlib.sha256(path.read_bytes()).hexdigest()[:16] == digest:
                return path
        return None
