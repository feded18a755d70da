"""What every searcher and client speaks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Hit:
    """One retrieved passage. `contents` is the title in quotes, a newline, then the text; a higher
    score is better.
    """

    id: str
    contents: str
    score: float

    @property
    def title(self) -> str:
        """The first line of `contents` without its quotes."""
        return self.contents.partition("\n")[0].strip().removeprefix('"').removesuffix('"')

    @property
    def text(self) -> str:
        """Everything after the first line of `contents`."""
        return self.contents.partition("\n")[2]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """The answer to one query: hits by falling score, or an error that concerns this query
    alone.
    """

    hits: tuple[Hit, ...] = ()
    error: str | None = None


class Retriever(Protocol):
    """Queries and k in, one result per query out. In-process searchers and the HTTP client give the
    same answers.
    """

    blocking: bool
    """True when a call waits on a network, so that callers should not make other work wait for it.
    """

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        """At most `k` hits for each query, in the order of `queries`."""
        ...
