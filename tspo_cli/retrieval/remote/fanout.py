"""One corpus in parts on several servers: every query goes to all of them, their hits are merged.

The merge is exact where a passage's score depends on the query and the passage alone: then the best
k of the corpus are among the best k of the parts. Inner products with the vectors as they were
encoded are such scores. BM25's are not: a word's weight depends on how many passages of the part
have it, and a passage's on their mean length; nor are those of codes that every part learns for
itself (SQ8, PQ). Such parts are refused unless approximate answers were asked for.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tspo_cli.errors import InvalidInputError
from tspo_cli.retrieval.remote.http_client import HttpRetriever
from tspo_cli.retrieval.types import Hit, SearchResult

_CALLS_AT_ONCE = 16
_VECTORS_AS_ENCODED = re.compile(r"Flat|SQfp16|SQbf16|(IVF\d+|HNSW\d+),Flat|HNSW\d+")
"""FAISS factory strings that learn no codes."""


class ShardedRetriever:
    """Searches all shards at once and keeps the best k hits by score.

    Equal scores come in the order of the shards, then in the order of each: that of the whole
    corpus where the shards are its consecutive parts. A query that any shard fails to answer has an
    error: what is missing could be the best.
    """

    blocking = True

    def __init__(self, shards: Sequence[HttpRetriever], *, approximate: bool = False) -> None:
        self._shards = tuple(shards)
        self._approximate = approximate
        self._pool = ThreadPoolExecutor(
            _CALLS_AT_ONCE * len(self._shards), thread_name_prefix="shard"
        )

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        """At most `k` hits for each query, in the order of `queries`."""
        calls = [self._pool.submit(shard.search, queries, k) for shard in self._shards]
        parts = zip(*(call.result() for call in calls), strict=True)
        return [merge(results, k) for results in parts]

    def check(self) -> None:
        """Ask every shard for one hit, and whether their scores can be compared.

        Raises:
            RemoteServiceError: a shard does not answer, or not in the expected form.
            InvalidInputError: a shard is no tspo server, two serve the same passages, they differ
            in kind, settings
                or encoder, or their scores are comparable only approximately and that was not
                allowed.
        """
        facts = {}
        for shard in self._shards:
            shard.check()
            facts[shard.urls[0]] = shard.describe(shard.urls[0])
        _check_shards(facts, self._approximate)

    def close(self) -> None:
        """Close connections and threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        for shard in self._shards:
            shard.close()


def merge(results: Sequence[SearchResult], k: int) -> SearchResult:
    """The best `k` hits of one query from its results in all shards; the first error, if any shard
    failed.
    """
    for result in results:
        if result.error is not None:
            return result
    hits: list[Hit] = [hit for result in results for hit in result.hits]
    return SearchResult(tuple(sorted(hits, key=lambda hit: -hit.score)[:k]))


def _check_shards(facts: dict[str, dict[str, Any]], approximate: bool) -> None:
    for url, known in facts.items():
        if "index" not in known:
            raise InvalidInputError(
                f"retriever {url}: shards must be tspo servers; this one does not say what it "
                "serves"
            )
    (first_url, first), *others = facts.items()
    for name in ("kind", "parameters", "search", "encoder"):
        for url, known in others:
            if known.get(name) != first.get(name):
                raise InvalidInputError(
                    f"retriever: shards must be indexed alike, but {first_url} has {name} "
                    f"{first.get(name)} "
                    f"and {url} has {known.get(name)}"
                )
    seen: dict[str, str] = {}
    for url, known in facts.items():
        if (digest := known["index"]) in seen:
            raise InvalidInputError(
                f"retriever: {seen[digest]} and {url} serve the same passages; shards must differ, "
                'equal servers need retriever.servers = "replicas"'
            )
        seen[digest] = url
    if not approximate and (reason := _incomparable(first["kind"], first.get("parameters") or {})):
        raise InvalidInputError(
            f"retriever: {first['kind']} scores of shards are not comparable exactly (every part "
            "has its own "
            f"{reason}); serve the whole index and list replicas, or set "
            "retriever.approximate_shards = true"
        )


def _incomparable(kind: str, parameters: dict[str, Any]) -> str:
    """What a score depends on beside the query and the passage; empty: nothing."""
    if kind != "dense":
        return "word statistics"
    as_encoded = _VECTORS_AS_ENCODED.fullmatch(parameters.get("factory", "Flat"))
    return (
        ""
        if as_encoded or parameters.get("rescore", "none") != "none"
        else "codes; build with rescore"
    )
