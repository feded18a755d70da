"""What the rollouts of a step ask of retriever and engine: latencies, batches, caches."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tspo_cli.retrieval.types import Retriever, RetrieverInfo, SearchResult

SearchRequest = tuple[float, int]
"""Seconds of a request to a retriever, and its number of queries."""


@dataclass(frozen=True, slots=True)
class RolloutLoad:
    """Of one process and step: its requests to the retriever, and what its engine says of its KV
    cache (see `ReportsLoad`), nothing where it has none to tell of.
    """

    requests: Sequence[SearchRequest] = ()
    cache: dict[str, float] = field(default_factory=dict)


@dataclass
class MeasuredRetriever:
    """A retriever that notes its requests until `take`. Several threads may search with it."""

    retriever: Retriever
    requests: list[SearchRequest] = field(default_factory=list)
    blocking: bool = field(init=False)

    def __post_init__(self) -> None:
        self.blocking = self.retriever.blocking

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        """See `Retriever`. A request that the retriever does not answer is not noted."""
        started = time.perf_counter()
        results = self.retriever.search(queries, k)
        self.requests.append((time.perf_counter() - started, len(queries)))
        return results

    def describe(self) -> RetrieverInfo:
        """See `Retriever`."""
        return self.retriever.describe()

    def take(self) -> list[SearchRequest]:
        """The requests that ended since the last call."""
        taken, self.requests = self.requests, []
        return taken


def load_measures(loads: Sequence[RolloutLoad]) -> dict[str, float]:
    """The measures of a step from the loads of all processes.

    `retrieval_requests`; `retrieval_p50`, `retrieval_p99`: seconds of a request to the retriever;
    `retrieval_batch`, `retrieval_batch_largest`: queries of a request, mean and largest.
    `kv_cache_peak`: largest share of a KV cache in use; `preemptions`: requests that vLLM pushed
    out of one. What nobody measured is left out.
    """
    found: dict[str, float] = {}
    requests = [request for load in loads for request in load.requests]
    if requests:
        seconds, queries = np.array(requests, dtype=float).T
        half, most = np.percentile(seconds, [50, 99])
        found = {
            "retrieval_requests": float(len(requests)),
            "retrieval_p50": float(half),
            "retrieval_p99": float(most),
            "retrieval_batch": float(queries.mean()),
            "retrieval_batch_largest": float(queries.max()),
        }
    for name, merged in (("kv_cache_peak", max), ("preemptions", sum)):
        values = [load.cache[name] for load in loads if name in load.cache]
        if values:
            found[name] = float(merged(values))
    return found
