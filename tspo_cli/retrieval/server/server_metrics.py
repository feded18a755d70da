"""Metrics of the server for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from tspo_cli.retrieval.server.answer_cache import AnswerCache

CONTENT_TYPE = CONTENT_TYPE_LATEST
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class ServerMetrics:
    """Counters of one server. Several servers in one process have separate counters."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "tspo_requests",
            "POST /retrieve requests by status.",
            ["status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            "tspo_request_seconds",
            "Seconds from request to response, of answered requests.",
            registry=self._registry,
            buckets=_SECONDS,
        )
        queries = Counter(
            "tspo_queries",
            "Queries by the source of their result: cached, shared (a running search), searched.",
            ["source"],
            registry=self._registry,
        )
        self._queries = {
            source: queries.labels(source) for source in ("cached", "shared", "searched")
        }
        self._errors = Counter(
            "tspo_query_errors", "Queries answered with an error.", registry=self._registry
        )
        self._batch_size = Histogram(
            "tspo_batch_queries", "Queries in one search.", registry=self._registry, buckets=_SIZES
        )
        self._batch_seconds = Histogram(
            "tspo_batch_seconds",
            "Seconds of one search.",
            registry=self._registry,
            buckets=_SECONDS,
        )
        self._statuses: dict[int, Counter] = {}

    def watch(self, *, waiting: Callable[[], int], cache: AnswerCache) -> None:
        """Register values that are read when the metrics are requested."""
        for name, text, read in (
            ("tspo_waiting_queries", "Queries waiting for a search.", waiting),
            ("tspo_cache_answers", "Results in the cache.", lambda: len(cache)),
            ("tspo_cache_bytes", "Bytes of the cached results.", lambda: cache.bytes),
        ):
            Gauge(name, text, registry=self._registry).set_function(read)

    def request(self, status: int, seconds: float, errors: int = 0) -> None:
        """Count a finished request, of which `errors` queries failed."""
        if status not in self._statuses:
            self._statuses[status] = self._requests.labels(str(status))
        self._statuses[status].inc()
        if status == 200:
            self._seconds.observe(seconds)
        if errors:
            self._errors.inc(errors)

    def queries(self, *, cached: int, shared: int, searched: int) -> None:
        """Count the queries of one request by the source of their results."""
        for source, count in (("cached", cached), ("shared", shared), ("searched", searched)):
            if count:
                self._queries[source].inc(count)

    def batch(self, size: int, seconds: float) -> None:
        """Count one search."""
        self._batch_size.observe(size)
        self._batch_seconds.observe(seconds)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)
