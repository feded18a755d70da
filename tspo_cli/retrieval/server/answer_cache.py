"""A least-recently-used cache of query results, limited in bytes."""

from __future__ import annotations

from collections import OrderedDict

from tspo_cli.retrieval.server.wire_format import EncodedResult

CacheKey = tuple[str, int, str]
"""Digest of the index, k, and the normalised query."""
_ENTRY_BYTES = 600
"""Overhead of an entry in Python objects: tuples, headers of bytes, the slot in the dictionary."""


class AnswerCache:
    """Not thread-safe: only the event loop uses it. A limit of 0 bytes stores nothing."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[CacheKey, EncodedResult] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: CacheKey) -> EncodedResult | None:
        """The stored result, which becomes the most recently used; None if there is none."""
        result = self._entries.get(key)
        if result is not None:
            self._entries.move_to_end(key)
        return result

    def put(self, key: CacheKey, result: EncodedResult) -> None:
        """Store a result and drop the least recently used ones beyond the limit. Errors are never
        stored.
        """
        size = _size(key, result)
        if result.error is not None or size > self._max_bytes or key in self._entries:
            return
        self._entries[key] = result
        self.bytes += size
        while self.bytes > self._max_bytes:
            self.bytes -= _size(*self._entries.popitem(last=False))


def normalise(query: str, kind: str | None) -> str:
    """The cache key of a query: queries with equal keys have equal results.

    BM25 uses the lower-cased words only. An encoder may distinguish case and spaces, so that only
    identical queries share a key.
    """
    return " ".join(query.lower().split()) if kind == "bm25" else query


def _size(key: CacheKey, result: EncodedResult) -> int:
    return len(result) + 4 * len(key[2]) + 80 * len(result.documents) + _ENTRY_BYTES
