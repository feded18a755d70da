"""Exact top-k in blocks with torch: on the CPU from the mapped file, on GPUs from their memory, shards over them all.

The first pass may run in float16 or int8; the best candidates are scored again from the file by the caller.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.retrieval.faiss_files import FlatRows

_BLOCK = 65_536
"""Rows scored at once: 16 MiB of scores for 64 queries."""


class TorchScan:
    """Scores every row for a batch of queries. Answers like a FAISS index: `search`, `ntotal`, `d`.

    Args:
        rows: the vectors, on disk.
        first_pass: float32 (exact), float16, or int8 with one scale per row (Dettmers et al. 2022, vector-wise).
        device: cpu, cuda (all GPUs), cuda:1, or auto: all GPUs where there are some.

    Raises:
        MissingResourceError: there is no such device.
    """

    def __init__(self, rows: FlatRows, first_pass: str, device: str) -> None:
        self.ntotal, self.d = rows.ntotal, rows.d
        self._first_pass = first_pass
        self._shards = [
            _Shard(rows, start, stop, first_pass, torch.device(name))
            for name, start, stop in _split(rows.ntotal, devices(device))
        ]

    def search(self, queries: NDArray[np.float32], k: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and positions [n, k] by falling score of the first pass."""
        wanted = torch.from_numpy(np.ascontiguousarray(queries))
        found = [shard.search(wanted, min(k, len(shard))) for shard in self._shards]
        scores = torch.cat([part[0].cpu() for part in found], dim=1)
        positions = torch.cat([part[1].cpu() for part in found], dim=1)
        best = scores.topk(min(k, scores.shape[1]), dim=1)
        return best.values.numpy(), positions.gather(1, best.indices).numpy()

    def error(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """How far an int8 score of each of `queries` [n, d] may be from the exact one, at most, [n].

        With q = q' + e and x = x' + f, where q' and x' are what the codes say, q.x - q'.x' = q.f + e.x', and Cauchy
        and Schwarz bound both parts by lengths that are known.
        """
        asked = torch.from_numpy(np.ascontiguousarray(queries))
        codes, scales = quantise(asked)
        lost = (asked - codes * scales[:, None]).norm(dim=1)
        row_lost = max(shard.row_lost for shard in self._shards)
        row_length = max(shard.row_length for shard in self._shards)
        # The products of int8 are exact; a thousandth covers the roundings of this bound and of the scales.
        bound: NDArray[np.float32] = (1.001 * (asked.norm(dim=1) * row_lost + lost * row_length)).numpy()
        return bound


class _Shard:
    """Consecutive rows on one device: mapped on the CPU, copied to a GPU."""

    def __init__(self, rows: FlatRows, start: int, stop: int, first_pass: str, device: torch.device) -> None:
        self._rows, self._start, self._stop = rows, start, stop
        self._first_pass, self._device = first_pass, device
        self.row_lost, self.row_length = 0.0, 0.0
        """int8: the greatest length of what quantising took from a row, and of a row after it."""
        resident = device.type != "cpu" or first_pass == "int8"
        self._blocks = [self._prepare(*span) for span in self._spans()] if resident else None

    def __len__(self) -> int:
        return self._stop - self._start

    def search(self, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The best `k` of this shard: scores and positions in the whole corpus, each [n, k]."""
        best: tuple[torch.Tensor, torch.Tensor] | None = None
        asked = self._query(queries.to(self._device))
        for number, (start, stop) in enumerate(self._spans()):
            block = self._blocks[number] if self._blocks is not None else self._prepare(start, stop)
            scores = self._score(asked, block)
            top = scores.topk(min(k, stop - start), dim=1)
            found = (top.values, top.indices + start)
            if best is not None:
                merged = torch.cat([best[0], found[0]], dim=1)
                top = merged.topk(min(k, merged.shape[1]), dim=1)
                found = (top.values, torch.cat([best[1], found[1]], dim=1).gather(1, top.indices))
            best = found
        assert best is not None
        return best

    def _spans(self) -> list[tuple[int, int]]:
        return [(at, min(at + _BLOCK, self._stop)) for at in range(self._start, self._stop, _BLOCK)]

    def _prepare(self, start: int, stop: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        # A copy: torch wants memory that it may write, and the map is read-only.
        block = torch.from_numpy(np.array(self._rows.block(start, stop))).to(self._device)
        if self._first_pass == "int8":
            codes, scales = quantise(block.float())
            kept = codes * scales[:, None]
            self.row_length = max(self.row_length, float(kept.norm(dim=1).max()))
            self.row_lost = max(self.row_lost, float((block.float() - kept).norm(dim=1).max()))
            return codes, scales
        half = self._first_pass == "float16" and self._device.type != "cpu"
        return block.half() if half else block.float(), None

    def _query(self, queries: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        if self._first_pass == "int8":
            return quantise(queries)
        half = self._first_pass == "float16" and self._device.type != "cpu"
        return queries.half() if half else queries, None

    def _score(
        self, asked: tuple[torch.Tensor, torch.Tensor | None], block: tuple[torch.Tensor, torch.Tensor | None]
    ) -> torch.Tensor:
        (queries, query_scales), (rows, scales) = asked, block
        if scales is None or query_scales is None:
            return (queries @ rows.T).float()
        if self._device.type == "cpu":
            # Sums of 1,040 products of two codes are whole numbers that float32 holds, and its product is the fast one.
            products = queries.float() @ rows.float().T
        else:
            # cuBLAS wants at least 17 rows on the left; zeros fill up.
            left = torch.nn.functional.pad(queries, (0, 0, 0, max(0, 17 - len(queries))))
            products = torch._int_mm(left, rows.T)[: len(queries)].float()
        return products * query_scales[:, None] * scales[None, :]


def quantise(vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 codes [n, d] and one float32 scale per row [n]; vectors are about codes x scale."""
    scales = vectors.abs().amax(dim=1).clamp(min=1e-12) / 127
    return (vectors / scales[:, None]).round().to(torch.int8), scales


def devices(device: str) -> list[str]:
    """What a `device` setting means here: all GPUs, or else the CPU, for auto; all of them for cuda.

    Raises:
        MissingResourceError: there is no such GPU.
        InvalidInputError: not the name of a device.
    """
    gpus = torch.cuda.device_count()
    if device == "auto":
        return [f"cuda:{number}" for number in range(gpus)] or ["cpu"]
    if device == "cuda" and gpus:
        return [f"cuda:{number}" for number in range(gpus)]
    try:
        named = torch.device(device)
    except RuntimeError:
        raise InvalidInputError(f"setting device: expected auto, cpu, cuda or cuda:N, got {device!r}") from None
    if named.type == "cuda" and (named.index or 0) >= gpus:
        raise MissingResourceError(f"device {device}: there are {gpus} GPUs here; use --set device=cpu")
    return [str(named)]


def _split(rows: int, devices: list[str]) -> list[tuple[str, int, int]]:
    edges = [rows * number // len(devices) for number in range(len(devices) + 1)]
    parts = zip(devices, edges[:-1], edges[1:], strict=True)
    return [(name, start, stop) for name, start, stop in parts if stop > start]
