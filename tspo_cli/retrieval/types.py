"""What all retrievers have in common: queries in, hits out, a description of what is searched."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

MAX_QUERY_CHARACTERS = 32_768
"""A longer query is an error: no encoder reads so much, and BM25 would take seconds for it."""

POSTINGS = ("data", "indices", "indptr")
"""The arrays of a BM25 index, as bm25s names them and their files."""
VECTORS_NAME = "vectors.faiss"
RESCORE_NAME = "rescore.npy"
IDENTITY_HEADER = "X-Tspo-Index"
"""The header of an answer of a server with the `identity` of what it searched."""


@dataclass(frozen=True, slots=True)
class Hit:
    """One retrieved passage. A higher score is better.

    `contents` is the title in quotes, a newline, then the text.
    """

    id: str
    contents: str
    score: float

    @property
    def quoted_title(self) -> str:
        """The first line of `contents` as it is."""
        return self.contents.partition("\n")[0]

    @property
    def title(self) -> str:
        """The first line of `contents` without its quotes."""
        return self.quoted_title.strip().removeprefix('"').removesuffix('"')

    @property
    def text(self) -> str:
        """Everything after the first line of `contents`."""
        return self.contents.partition("\n")[2]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The result of one query: hits by falling score, or an error that concerns this query only."""

    hits: tuple[Hit, ...] = ()
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrieverInfo:
    """What a retriever searches. A field that the retriever does not know is None or empty."""

    kind: str | None = None
    """bm25, dense or hybrid; sparse or dense for a Qdrant collection."""
    passages: int | None = None
    index_digest: str = ""
    """SHA-256 of the index, which is the same for every copy of it. Empty: not one tspo index."""
    corpus_digest: str = ""
    """SHA-256 of the corpus file that the index was built from."""
    encoder: str | None = None
    """Name of the encoder, without its directory."""
    parameters: Mapping[str, Any] | None = None
    """The settings that the index was built with."""
    search: Mapping[str, Any] = field(default_factory=dict)
    """The search settings that make the results differ from those of the index as built."""
    reranker_digest: str = ""
    """SHA-256 of the reranker's files. Empty: none, or a name on the hub."""

    @property
    def identity(self) -> str:
        """A digest of all that decides what is found. Empty: it is not one tspo index."""
        if not self.index_digest:
            return ""
        facts = [self.index_digest, dict(self.search), self.reranker_digest]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


class Retriever(Protocol):
    """Answers queries. An index in this process and a server of it give the same results."""

    blocking: bool
    """True if a call waits for a network: callers should do other work meanwhile."""

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        """At most `k` hits for each query, in the order of `queries`."""
        ...

    def describe(self) -> RetrieverInfo:
        """What is searched. A remote retriever asks its server."""
        ...


def unseen_depth(k: int, searches: int) -> int:
    """Passages to ask for, so that k are left when those of `searches` searches are taken out."""
    return k * (searches + 1)


def unseen(hits: Iterable[Hit], seen: Iterable[Hit]) -> tuple[Hit, ...]:
    """The hits whose contents no passage of `seen` has, in their order."""
    known = {hit.contents for hit in seen}
    return tuple(hit for hit in hits if hit.contents not in known)


def query_problem(query: str, max_characters: int = MAX_QUERY_CHARACTERS) -> str | None:
    """Why a query cannot be searched for, or None."""
    if len(query) > max_characters:
        return f"query: expected at most {max_characters} characters, got {len(query)}"
    return None if query.strip() else "query: empty"
