"""The dense part of a build: an estimate, then shards of vectors, then the index file."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tspo_cli.config.sections.index_settings import DenseSettings
from tspo_cli.console import byte_size, counted, duration, say
from tspo_cli.errors import MissingResourceError
from tspo_cli.retrieval.dense.dense_ranker import check_device, empty_index, write_vectors
from tspo_cli.retrieval.dense.encoder import Encoder
from tspo_cli.retrieval.dense.vectors import ShardedVectors
from tspo_cli.retrieval.passages import PassageStore
from tspo_cli.retrieval.search_settings import shard_type

_PROBE = 64
"""Passages that are encoded to estimate the time."""
_STREAMED = ("Flat", "SQ")


@dataclass(frozen=True)
class DenseEstimate:
    """The cost of a dense build: bytes of the index and of scratch files, and of memory without the
    encoder.
    """

    passages: int
    dim: int
    index_bytes: int
    rescore_bytes: int
    scratch_bytes: int
    memory_bytes: int
    seconds: float
    passages_per_second: float

    def text(self) -> str:
        """One line for a person."""
        return (
            f"estimate: {counted(self.passages, 'passage')} x {self.dim}, about "
            f"{duration(self.seconds)} at "
            f"{self.passages_per_second:.0f} passages/s; index "
            f"{byte_size(self.index_bytes + self.rescore_bytes)}, "
            f"{byte_size(self.scratch_bytes)} more on disk while it is built, memory "
            f"{byte_size(self.memory_bytes)} "
            "without the encoder"
        )


def build_dense(
    store: PassageStore, target: Path, shards: Path, settings: DenseSettings, encoder: str
) -> None:
    """Encode the contents of `store` and write the index files into `target`.

    Raises:
        MissingResourceError: no such encoder, or not enough disk space.
        InvalidInputError: FAISS cannot make the index that the factory string names.
    """
    check_device(settings.device)
    model = Encoder(encoder, settings)
    empty_index(model.dim, settings.factory)
    probe = [store[i * len(store) // _PROBE][1] for i in range(min(_PROBE, len(store)))]
    expected = estimate_dense(len(store), probe, model, settings)
    say(expected.text())
    vectors = ShardedVectors(shards, len(store), settings.shard_size, shard_type(settings))
    written = sum(path.stat().st_size for path in shards.glob("*.npy"))
    needed = expected.index_bytes + expected.rescore_bytes + expected.scratch_bytes - written
    free = shutil.disk_usage(target).free
    if needed > free:
        raise MissingResourceError(
            f"{target}: about {byte_size(needed)} of disk are needed, {byte_size(free)} are free"
        )
    vectors.encode(store, model)
    write_vectors(vectors, len(store), model.dim, target, settings)
    model.keep(target)


def estimate_dense(
    passages: int, probe: Sequence[str], model: Encoder, settings: DenseSettings
) -> DenseEstimate:
    """Sizes from the settings, time from encoding `probe`, a sample of the passages."""
    model.encode_passages(probe[:4])
    started = time.perf_counter()
    model.encode_passages(probe)
    speed = len(probe) / (time.perf_counter() - started)
    code = code_bytes(model.dim, settings.factory)
    rescore = {"none": 0, "float16": 2, "float32": 4}[settings.rescore]
    shard = 2 if shard_type(settings) == "float16" else 4
    in_memory = 0 if settings.factory.startswith(_STREAMED) else passages * code
    return DenseEstimate(
        passages=passages,
        dim=model.dim,
        index_bytes=passages * code,
        rescore_bytes=passages * model.dim * rescore,
        scratch_bytes=passages * model.dim * shard,
        # Three copies of a shard in float32: encoded, written, converted.
        memory_bytes=in_memory + 3 * settings.shard_size * model.dim * 4,
        seconds=passages / speed,
        passages_per_second=speed,
    )


def code_bytes(dim: int, factory: str) -> int:
    """Bytes of one vector in an index of this kind, links and list entries included."""
    import faiss

    index: Any = empty_index(dim, factory)
    ivf = faiss.try_extract_index_ivf(index)
    if ivf is not None:
        return int(ivf.code_size) + 8
    if hasattr(index, "hnsw"):
        return int(index.storage.sa_code_size()) + int(index.hnsw.nb_neighbors(0)) * 4 + 12
    return int(index.sa_code_size())
