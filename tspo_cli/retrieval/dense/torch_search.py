"""Top-k search in blocks with torch: on the CPU from the mapped file, on GPUs from their memory, in
shards over all GPUs.

The first pass may run in float16 or int8. The caller scores the best candidates again from the
file.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from tspo_cli.console import counted
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.retrieval.dense.faiss_files import FlatRows

_CPU_ROWS, _CPU_SCORES = 2**16, 2**22
_GPU_ROWS, _GPU_SCORES = 2**22, 2**27
"""Most rows scored at once, and most scores in memory: 16 MiB on a CPU, 256 to 1,024 on a GPU."""
_GROUP = 64
"""Neighbouring scores in a group. The first selection compares the maxima of the groups only."""
_HALF_LONGEST = 65_000.0
"""The longest row whose product with a query of length one float16 can hold."""


class TorchScan:
    """Scores every row for a batch of queries. Has the interface of a FAISS index: FirstPass.

    Args:
        rows: the vectors, on disk.
        first_pass: float32 (exact), float16, or int8 with one scale per row (Dettmers et al. 2022,
            vector-wise).
        device: cpu, cuda (all GPUs), cuda:1, or auto (all GPUs, or the CPU without any).

    Raises:
        MissingResourceError: there is no such device.
        InvalidInputError: float16 cannot hold the vectors.
    """

    def __init__(self, rows: FlatRows, first_pass: str, device: str) -> None:
        self.ntotal, self.d = rows.ntotal, rows.d
        self._shards = [
            _Shard(rows, start, stop, first_pass, torch.device(name))
            for name, start, stop in _split(rows.ntotal, devices(device))
        ]

    def search(
        self, queries: NDArray[np.float32], k: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and positions [n, k] by falling score of the first pass."""
        vectors = torch.from_numpy(np.ascontiguousarray(queries))
        results = [shard.search(vectors, min(k, len(shard))) for shard in self._shards]
        scores = torch.cat([result[0].cpu() for result in results], dim=1)
        positions = torch.cat([result[1].cpu() for result in results], dim=1)
        best = scores.topk(min(k, scores.shape[1]), dim=1)
        return best.values.numpy(), positions.gather(1, best.indices).numpy()

    @property
    def is_exact(self) -> bool:
        """Whether the scores are float32's, which a CPU also computes for float16."""
        return all(shard.dtype == torch.float32 for shard in self._shards)

    def error(self, queries: NDArray[np.float32]) -> NDArray[np.float32]:
        """A bound of the error of the float16 or int8 scores of each of `queries` [n, d], [n].

        Let q = q' + e and x = x' + f, where q' and x' are the reduced numbers. Then q.x - q'.x' =
        q.f + e.x', and the Cauchy-Schwarz inequality bounds both terms by known lengths.
        """
        vectors = torch.from_numpy(np.ascontiguousarray(queries))
        dtype = self._shards[0].dtype
        reduced, scales = _reduce_queries(vectors, dtype)
        length = vectors.norm(dim=1)
        lost = (vectors - reduced.float() * scales[:, None]).norm(dim=1)
        row_lost = max(shard.row_lost for shard in self._shards)
        row_length = max(shard.row_length for shard in self._shards)
        # The factor covers the rounding of the bound, of the scales and of float32.
        bound = 1.001 * (length * row_lost + lost * row_length)
        if dtype == torch.float16:
            # Products of int8 are exact. Those of float16 are rounded, and perhaps once before, in
            # partial sums; numbers near zero are rounded to multiples of 2^-24.
            bound += 2**-10 * 1.001 * (length + lost) * row_length + 2**-24 * scales
        result: NDArray[np.float32] = bound.numpy()
        return result


class _Shard:
    """Consecutive rows on one device: mapped on the CPU, copied to a GPU."""

    def __init__(
        self, rows: FlatRows, start: int, stop: int, first_pass: str, device: torch.device
    ) -> None:
        self._source, self._start, self._stop = rows, start, stop
        self._device = device
        self._gpu = device.type != "cpu"
        self.dtype = scan_dtype(first_pass, device)
        self.row_lost, self.row_length = 0.0, 0.0
        """float16, int8: the greatest length of a row's rounding error, and of a reduced row."""
        self._resident = self._load() if self._gpu or self.dtype != torch.float32 else None

    def __len__(self) -> int:
        return self._stop - self._start

    def search(self, queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The best `k` of this shard: scores, and positions in the whole corpus, each [n, k]."""
        best = torch.empty(len(queries), 0, device=self._device)
        positions = torch.empty(len(queries), 0, dtype=torch.int64, device=self._device)
        queries, scales = _reduce_queries(queries.to(self._device), self.dtype)
        most_rows, most_scores = (_GPU_ROWS, _GPU_SCORES) if self._gpu else (_CPU_ROWS, _CPU_SCORES)
        step = max(_GROUP, min(most_rows, most_scores // len(queries)) // _GROUP * _GROUP)
        for start in range(0, len(self), step):
            stop = min(start + step, len(self))
            values, columns = best_of(self._score(queries, start, stop), k)
            best = torch.cat([best, values], dim=1)
            positions = torch.cat([positions, columns + (self._start + start)], dim=1)
            if best.shape[1] > k:
                best, order = best.topk(k, dim=1)
                positions = positions.gather(1, order)
        # The factor is the same for all scores of a query, so it does not change their order.
        return best * scales[:, None], positions

    def _load(self) -> tuple[torch.Tensor, torch.Tensor]:
        """All rows on the device in the type of the first pass, and the scale of each (int8)."""
        loaded = torch.empty(len(self), self._source.d, dtype=self.dtype, device=self._device)
        has_scales = self.dtype == torch.int8
        scales = torch.ones(len(self) if has_scales else 0, device=self._device)
        for start in range(0, len(self), _CPU_ROWS):
            stop = min(start + _CPU_ROWS, len(self))
            block = self._block(start, stop).to(self._device)
            if has_scales:
                loaded[start:stop], scales[start:stop] = quantise(block.float())
                self._measure(block, loaded[start:stop] * scales[start:stop, None])
            else:
                loaded[start:stop] = block
            if self.dtype == torch.float16:
                self._measure(block, loaded[start:stop])
        if self.dtype == torch.float16 and not self.row_length <= _HALF_LONGEST:
            raise InvalidInputError(
                f"setting first_pass: float16 holds vectors of length up to {_HALF_LONGEST:,.0f}, "
                "and this index has a longer one; use --set first_pass=float32"
            )
        return loaded, scales

    def _measure(self, rows: torch.Tensor, kept: torch.Tensor) -> None:
        """Note the lengths that bound the error of scores with `kept` for `rows`, both [n, d]."""
        rows, kept = rows.float(), kept.float()
        self.row_length = max(self.row_length, float(kept.norm(dim=1).max()))
        self.row_lost = max(self.row_lost, float((rows - kept).norm(dim=1).max()))

    def _block(self, start: int, stop: int) -> torch.Tensor:
        # A copy, because torch needs writable memory and the map is read-only.
        return torch.from_numpy(
            np.array(self._source.block(self._start + start, self._start + stop))
        )

    def _score(self, queries: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """Scores [n, stop - start], up to one factor per query."""
        if self._resident is None:
            return queries @ self._block(start, stop).float().T
        rows, scales = self._resident[0][start:stop], self._resident[1][start:stop]
        if self.dtype != torch.int8:
            return queries @ rows.T
        if not self._gpu:
            # float32 holds the sum of up to 1,040 products of two codes exactly, and its matrix
            # product is faster.
            return (queries.float() @ rows.float().T) * scales
        # cuBLAS needs at least 17 rows on the left, and multiples of 8 in the other dimensions.
        left = _padded(queries, max(0, 17 - len(queries)), -queries.shape[1] % 8)
        right = _padded(rows, -len(rows) % 8, -rows.shape[1] % 8)
        return torch._int_mm(left, right.T)[: len(queries), : len(rows)] * scales


def best_of(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The best `k` of each row of `scores` [n, m] by falling score: float32 values and columns, [n,
    min(k, m)].

    They are in the k groups of neighbours with the greatest maxima, so all scores are read once and
    few are sorted.
    """
    columns = scores.shape[1]
    if columns > 2 * k * _GROUP:
        grouped = _padded(scores, 0, -columns % _GROUP, -torch.inf).unflatten(1, (-1, _GROUP))
        groups = grouped.amax(dim=2).topk(k, dim=1).indices
        near = grouped.gather(1, groups[:, :, None].expand(-1, -1, _GROUP)).flatten(1)
        values, order = near.float().topk(k, dim=1)
        return values, groups.gather(1, order // _GROUP) * _GROUP + order % _GROUP
    values, indices = scores.float().topk(min(k, columns), dim=1)
    return values, indices


def _padded(table: torch.Tensor, rows: int, columns: int, value: float = 0) -> torch.Tensor:
    """`table` with more rows and columns of `value`; without any, `table` itself and no copy."""
    return (
        torch.nn.functional.pad(table, (0, columns, 0, rows), value=value)
        if rows or columns
        else table
    )


def scan_dtype(first_pass: str, device: torch.device) -> torch.dtype:
    """The type of the rows in memory. A CPU has no fast float16, and uses float32 for it."""
    if first_pass == "int8":
        return torch.int8
    is_half = first_pass == "float16" and device.type != "cpu"
    return torch.float16 if is_half else torch.float32


def _reduce_queries(queries: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries [n, d] in the type of the rows, and the factor of each [n] that restores it.

    float16 gets vectors of length one: it holds no large numbers.
    """
    if dtype == torch.int8:
        return quantise(queries)
    if dtype == torch.float16:
        scales = queries.norm(dim=1).clamp(min=1e-12)
        return (queries / scales[:, None]).half(), scales
    return queries, torch.ones(len(queries), device=queries.device)


def quantise(vectors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 codes [n, d] and one float32 scale per row [n]; vectors are about codes x scale."""
    scales = vectors.abs().amax(dim=1).clamp(min=1e-12) / 127
    return (vectors / scales[:, None]).round().to(torch.int8), scales


def devices(device: str) -> list[str]:
    """The devices of a `device` setting: all GPUs for auto and cuda; auto uses the CPU without any.

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
        raise InvalidInputError(
            f"setting device: expected auto, cpu, cuda or cuda:N, got {device!r}"
        ) from None
    if named.type == "cuda" and (named.index or 0) >= gpus:
        raise MissingResourceError(
            f"device {device}: there {'is' if gpus == 1 else 'are'} {counted(gpus, 'GPU')} here; "
            "use --set device=cpu"
        )
    return [str(named)]


def _split(rows: int, devices: list[str]) -> list[tuple[str, int, int]]:
    edges = [rows * number // len(devices) for number in range(len(devices) + 1)]
    parts = zip(devices, edges[:-1], edges[1:], strict=True)
    return [(name, start, stop) for name, start, stop in parts if stop > start]
