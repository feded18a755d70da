"""A retriever behind HTTP, asked as Search-R1's server is: POST /retrieve with `queries`, `topk`, `return_scores`."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Sequence
from typing import Any

import httpx

from tspo_cli.errors import InvalidInputError, RemoteServiceError
from tspo_cli.retrieval.types import Hit, SearchResult

MAX_BATCH = 256
"""Queries per request, below the limits of the servers in use."""
_LONGEST_WAIT = 10.0


class HttpRetriever:
    """Searches through one or several equal servers; the next one takes over where one fails.

    Scores, ids and contents arrive as the server's own searcher gives them. Safe to use from several threads.
    Proxies of the environment are not used: they would stand between a training run and its own machine.

    Args:
        urls: base URLs (`http://127.0.0.1:8000`); `/retrieve` is added where it is missing.
        timeout: seconds for one attempt.
        retries: further attempts after a failed connection, status 429 or 5xx.
        first_wait: seconds before the first retry; doubled each time, up to ten seconds, with jitter.

    Raises:
        InvalidInputError: no URL, or one that is not http(s).
    """

    blocking = True

    def __init__(
        self, urls: Sequence[str], timeout: float = 30.0, retries: int = 3, *, first_wait: float = 0.5
    ) -> None:
        if not urls:
            raise InvalidInputError("retriever: expected the URL of a server, got none")
        self._urls = [_endpoint(url) for url in urls]
        self._retries = retries
        self._first_wait = first_wait
        self._turn = itertools.count()
        # Shorter than the five seconds after which uvicorn servers drop an idle connection.
        limits = httpx.Limits(max_connections=256, max_keepalive_connections=256, keepalive_expiry=3.0)
        self._client = httpx.Client(timeout=timeout, limits=limits, trust_env=False)

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        """At most `k` hits for each query; where no server answers, each of these queries has the error."""
        results: list[SearchResult] = []
        for start in range(0, len(queries), MAX_BATCH):
            # A lone surrogate, which JSON in UTF-8 cannot carry, would fail the whole batch.
            batch = [query.encode("utf-8", "replace").decode() for query in queries[start : start + MAX_BATCH]]
            try:
                results += self._ask(batch, k, self._retries)
            except RemoteServiceError as error:
                results += [SearchResult(error=str(error))] * len(batch)
        return results

    def check(self) -> None:
        """Ask every server for one hit, once.

        Raises:
            RemoteServiceError: a server does not answer, or not in the expected form.
        """
        for url in self._urls:
            _parse(url, self._post(url, ["ping"], 1), 1)

    def close(self) -> None:
        """Close pooled connections."""
        self._client.close()

    def _ask(self, queries: list[str], k: int, retries: int) -> list[SearchResult]:
        first = next(self._turn)
        attempt = 0
        while True:
            url = self._urls[(first + attempt) % len(self._urls)]
            try:
                return _parse(url, self._post(url, queries, k), len(queries))
            except _Passing as error:
                if attempt == retries:
                    tries = f" after {attempt + 1} attempts" if attempt else ""
                    raise RemoteServiceError(f"{error}{tries}") from None
            wait = min(self._first_wait * 2**attempt, _LONGEST_WAIT)
            time.sleep(wait * random.uniform(0.5, 1.0))
            attempt += 1

    def _post(self, url: str, queries: list[str], k: int) -> Any:
        try:
            response = self._client.post(url, json={"queries": queries, "topk": k, "return_scores": True})
        except httpx.TransportError as error:
            raise _Passing(f"retriever {url}: {_reason(error)}; is the server running?") from None
        if response.status_code == 429 or response.status_code >= 500:
            raise _Passing(f"retriever {url}: status {response.status_code}")
        if response.status_code != 200:
            raise RemoteServiceError(f"retriever {url}: status {response.status_code}: {_excerpt(response.text)}")
        try:
            return response.json()
        except ValueError:
            raise RemoteServiceError(
                f"retriever {url}: expected JSON, got {_excerpt(response.text)!r}; is this a /retrieve server?"
            ) from None


class _Passing(RemoteServiceError):
    """A failure that another attempt may get over."""


def _endpoint(url: str) -> str:
    try:
        valid = httpx.URL(url).scheme in ("http", "https") and httpx.URL(url).host
    except httpx.InvalidURL:
        valid = False
    if not valid:
        raise InvalidInputError(f"retriever: expected a URL like http://127.0.0.1:8000, got {url!r}")
    url = url.rstrip("/")
    return url if url.endswith("/retrieve") else url + "/retrieve"


def _reason(error: httpx.TransportError) -> str:
    return "no answer in time" if isinstance(error, httpx.TimeoutException) else str(error) or type(error).__name__


def _excerpt(text: str) -> str:
    return " ".join(text.split())[:200]


def _parse(url: str, answer: Any, count: int) -> list[SearchResult]:
    """Results from an answer in dialect A (or B: then without scores). Raises RemoteServiceError for another form."""
    lists = answer.get("result") if isinstance(answer, dict) else None
    if not isinstance(lists, list) or len(lists) != count:
        raise RemoteServiceError(f'retriever {url}: expected "result" with {count} lists; is this a /retrieve server?')
    errors = answer.get("errors") or [None] * count
    try:
        return [
            SearchResult(error=error) if error else SearchResult(tuple(_hit(record) for record in records))
            for records, error in zip(lists, errors, strict=True)
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RemoteServiceError(f"retriever {url}: cannot read its hits ({type(error).__name__}: {error})") from None


def _hit(record: dict[str, Any]) -> Hit:
    document = record.get("document", record)
    contents = document.get("contents")
    if contents is None:
        contents = f'"{document["title"]}"\n{document["text"]}'
    return Hit(str(document.get("id", "")), contents, float(record.get("score", 0.0)))
