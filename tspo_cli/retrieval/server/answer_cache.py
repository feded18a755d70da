"""Answers to queries that were asked before: least recently used first out, with a cap in bytes."""

from __future__ import annotations

from collections import OrderedDict

from tspo_cli.retrieval.server.wire_format import Answer

CacheKey = tuple[str, int, str]
"""Digest of the index, k, and the query as the index reads it."""
_ENTRY_BYTES = 600
"""What an entry costs in Python objects beside its text: tuples, bytes headers, the slot in the
dictionary.
"""


class AnswerCache:
    """Not for several threads: the event loop alone looks up and stores. A cap of 0 keeps
    nothing.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[CacheKey, Answer] = OrderedDict()
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: CacheKey) -> Answer | None:
        """The stored answer, now the most recently used; None if there is none."""
        answer = self._entries.get(key)
        if answer is not None:
            self._entries.move_to_end(key)
        return answer

    def put(self, key: CacheKey, answer: Answer) -> None:
        """Store an answer and drop the least recently used ones beyond the cap. Errors are never
        stored.
        """
        size = _size(key, answer)
        if answer.error is not None or size > self._max_bytes or key in self._entries:
            return
        self._entries[key] = answer
        self.bytes += size
        while self.bytes > self._max_bytes:
            self.bytes -= _size(*self._entries.popitem(last=False))


def normalise(query: str, kind: str | None) -> str:
    """The query as an index of this kind reads it, so that equal keys mean equal answers.

    BM25 reads the words of the lower-cased text. What an encoder makes of case and spaces is its
    own affair: there only the same query is the same.
    """
    return " ".join(query.lower().split()) if kind == "bm25" else query


def _size(key: CacheKey, answer: Answer) -> int:
    return len(answer) + 4 * len(key[2]) + 80 * len(answer.documents) + _ENTRY_BYTES
