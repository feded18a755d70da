"""A corpus in shards on several servers: every query goes to all of them, and the hits are merged.

The merge is exact if a passage's score depends on the query and the passage only: then the best k
of the corpus are among the best k of the shards. That holds for inner products with the encoded
vectors. It does not hold for BM25, where the weight of a word depends on how many passages of the
shard have it, and the weight of a passage on their mean length; nor for codes that each shard
learns from its own vectors (SQ8, PQ). Such shards are refused unless `approximate` is set.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from tspo_cli.errors import InvalidInputError
from tspo_cli.retrieval.remote.http_client import HttpRetriever
from tspo_cli.retrieval.types import Hit, RetrieverInfo, SearchResult
from tspo_cli.threads import DaemonPool

_VECTORS_AS_ENCODED = re.compile(r"Flat|SQfp16|SQbf16|(IVF\d+|HNSW\d+),Flat|HNSW\d+")
"""FAISS factory strings of indexes that learn no codes."""


class ShardedRetriever:
    """Searches all shards at once and keeps the best k hits by score.

    Equal scores are in the order of the shards, then in the order within a shard. If the shards are
    consecutive parts of the corpus, that is the order of the corpus. If a shard fails to answer a
    query, the query has an error, because the missing hits could be the best. `concurrency`:
    searches at once.
    """

    blocking = True

    def __init__(
        self, shards: Sequence[HttpRetriever], *, approximate: bool = False, concurrency: int = 64
    ) -> None:
        self._shards = tuple(shards)
        self._approximate = approximate
        self._pool = DaemonPool(concurrency * len(self._shards), "shard")

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        """At most `k` hits for each query, in the order of `queries`.

        Raises:
            RemoteServiceError: a shard has not answered until the deadline.
        """
        calls = [self._pool.submit(shard.search, queries, k) for shard in self._shards]
        parts = zip(*(call.result() for call in calls), strict=True)
        return [merge(results, k) for results in parts]

    def check(self) -> None:
        """Request one hit from every shard, and check that their scores can be compared.

        Raises:
            RemoteServiceError: a shard does not answer, or not in the expected form.
            InvalidInputError: a shard is no tspo server; two shards serve the same passages; they
                differ in kind, settings or encoder; or their scores can be compared only
                approximately, and `approximate` is not set.
        """
        for shard in self._shards:
            shard.check()
        infos = {shard.urls[0]: shard.describe() for shard in self._shards}
        _check_shards(infos, self._approximate)

    def describe(self) -> RetrieverInfo:
        """The common description of all shards, without a digest: they are several indexes."""
        infos = [shard.describe() for shard in self._shards]
        counts = [info.passages for info in infos if info.passages is not None]
        passages = sum(counts) if len(counts) == len(infos) else None
        return replace(infos[0], passages=passages, index_digest="", corpus_digest="")

    def close(self) -> None:
        """Close connections and threads."""
        self._pool.close()
        for shard in self._shards:
            shard.close()


def merge(results: Sequence[SearchResult], k: int) -> SearchResult:
    """The best `k` hits of one query from its results in all shards; the first error, if any."""
    for result in results:
        if result.error is not None:
            return result
    hits: list[Hit] = [hit for result in results for hit in result.hits]
    return SearchResult(tuple(sorted(hits, key=lambda hit: -hit.score)[:k]))


def _check_shards(infos: dict[str, RetrieverInfo], approximate: bool) -> None:
    """`infos` by URL. Raises InvalidInputError as ShardedRetriever.check."""
    for url, info in infos.items():
        if not info.index_digest:
            raise InvalidInputError(
                f"retriever {url}: expected a tspo server, because shards are checked for a fit; "
                "this server does not describe its index"
            )
    (first_url, first), *others = infos.items()
    for name in ("kind", "parameters", "search", "reranker_digest", "encoder"):
        for url, info in others:
            if getattr(info, name) != getattr(first, name):
                raise InvalidInputError(
                    f"retriever: shards must be indexed alike, but {first_url} has {name} "
                    f"{getattr(first, name)} and {url} has {getattr(info, name)}"
                )
    url_of: dict[str, str] = {}
    for url, info in infos.items():
        if info.index_digest in url_of:
            raise InvalidInputError(
                f"retriever: {url_of[info.index_digest]} and {url} serve the same passages; "
                'shards must differ, equal servers need retriever.servers = "replicas"'
            )
        url_of[info.index_digest] = url
    if not approximate and (reason := _incomparable(first.kind, first.parameters or {})):
        raise InvalidInputError(
            f"retriever: {first.kind} scores of shards are not comparable exactly (every part "
            f"has its own {reason}); serve the whole index and list replicas, or set "
            "retriever.approximate_shards = true"
        )


def _incomparable(kind: str | None, parameters: Mapping[str, Any]) -> str:
    """What a score depends on except the query and the passage; empty: nothing."""
    if kind != "dense":
        return "word statistics"
    as_encoded = _VECTORS_AS_ENCODED.fullmatch(parameters.get("factory", "Flat"))
    return (
        ""
        if as_encoded or parameters.get("rescore", "none") != "none"
        else "codes; build with rescore"
    )
