"""A retriever behind HTTP, with the protocol of Search-R1's server: POST /retrieve with `queries`,
`topk` and `return_scores`.
"""

from __future__ import annotations

import itertools
import json
import random
import threading
import time
from collections.abc import Sequence
from typing import Any

import httpx

from tspo_cli.config.urls import check_url
from tspo_cli.errors import InvalidInputError, RemoteServiceError
from tspo_cli.retrieval.types import Hit, RetrieverInfo, SearchResult

MAX_BATCH = 256
"""Queries per request, below the limits of the servers in use."""
_LONGEST_WAIT = 10.0


class HttpRetriever:
    """Searches with one or several equal servers. If a server fails, the next one is tried.

    Scores, ids and contents are those of the server's searcher. It is thread-safe; threads share
    its connections. Proxies of the environment are not used, because the servers are mostly local.

    Args:
        urls: base URLs (`http://127.0.0.1:8000`); `/retrieve` is added where it is missing.
        timeout: seconds for one attempt.
        retries: further attempts after a failed connection, status 429 or 5xx.
        deadline: seconds for all attempts and the waits between them.
        concurrency: most requests at once; others wait, within the deadline.
        token: sent as `Authorization: Bearer ...`; empty: none.
        first_wait: seconds before the first retry; doubled each time, up to ten seconds, with
            jitter. The wait is at least the server's Retry-After.

    Raises:
        InvalidInputError: no URL, or one that is not http(s).
    """

    blocking = True

    def __init__(
        self,
        urls: Sequence[str],
        timeout: float = 30.0,
        retries: int = 3,
        *,
        deadline: float = 100.0,
        concurrency: int = 64,
        token: str = "",
        first_wait: float = 0.5,
    ) -> None:
        if not urls:
            raise InvalidInputError("retriever: expected the URL of a server, got none")
        self.urls = tuple(_endpoint(url) for url in urls)
        self._timeout, self._retries, self._deadline = timeout, retries, deadline
        self._first_wait = first_wait
        self._turn = itertools.count()
        self._slots = threading.BoundedSemaphore(concurrency)
        # Shorter than the five seconds after which uvicorn servers drop an idle connection.
        limits = httpx.Limits(
            max_connections=concurrency, max_keepalive_connections=concurrency, keepalive_expiry=3.0
        )
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._client = httpx.Client(headers=headers, limits=limits, trust_env=False)

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        """At most `k` hits for each query. If no server answers, each of these queries has the
        error.
        """
        results: list[SearchResult] = []
        for start in range(0, len(queries), MAX_BATCH):
            # A lone surrogate has no UTF-8 encoding and would fail the whole batch.
            batch = [
                query.encode("utf-8", "replace").decode()
                for query in queries[start : start + MAX_BATCH]
            ]
            try:
                results += self._ask(batch, k)
            except RemoteServiceError as error:
                results += [SearchResult(error=str(error))] * len(batch)
        return results

    def check(self) -> None:
        """Request one hit from every server, and check that all serve the same index.

        Raises:
            RemoteServiceError: a server does not answer, or not in the expected form.
            InvalidInputError: two servers serve different indexes, or search them differently.
        """
        for url in self.urls:
            self._parsed(url, ["ping"], 1, time.monotonic() + self._timeout)
        known = {url: info for url in self.urls if (info := self._describe(url)).index_digest}
        if len({info.index_digest for info in known.values()}) > 1:
            serves = ", ".join(f"{url} ({info.index_digest[:12]})" for url, info in known.items())
            raise InvalidInputError(
                f"retriever: these servers serve different indexes: {serves}; "
                'for parts of one corpus set retriever.servers = "shards"'
            )
        searches = {url: json.dumps(info.search, sort_keys=True) for url, info in known.items()}
        if len(set(searches.values())) > 1:
            differ = ", ".join(f"{url} {search}" for url, search in searches.items())
            raise InvalidInputError(
                f"retriever: these servers search one index differently: {differ}; give all the "
                "same --set"
            )

    def describe(self) -> RetrieverInfo:
        """The first server's description of its index at /healthz. For a server that is not tspo's
        the fields are empty.
        """
        return self._describe(self.urls[0])

    def _describe(self, url: str) -> RetrieverInfo:
        try:
            answer = self._client.get(
                url.removesuffix("retrieve") + "healthz", timeout=self._timeout
            )
            facts = answer.json() if answer.status_code == 200 else {}
        except (httpx.TransportError, ValueError):
            facts = {}
        if not isinstance(facts, dict):
            facts = {}
        return RetrieverInfo(
            kind=facts.get("kind"),
            passages=facts.get("passages"),
            index_digest=str(facts.get("index") or ""),
            encoder=facts.get("encoder"),
            parameters=facts.get("parameters"),
            search=facts.get("search") or {},
        )

    def close(self) -> None:
        """Close pooled connections."""
        self._client.close()

    def _ask(self, queries: list[str], k: int) -> list[SearchResult]:
        end = time.monotonic() + self._deadline
        first = next(self._turn)
        attempt = 0
        while True:
            url = self.urls[(first + attempt) % len(self.urls)]
            try:
                return self._parsed(url, queries, k, end)
            except _TemporaryError as error:
                backoff = min(self._first_wait * 2**attempt, _LONGEST_WAIT) * random.uniform(
                    0.5, 1.0
                )
                wait = max(backoff, error.retry_after)
                attempt += 1
                if attempt > self._retries or time.monotonic() + wait >= end:
                    late = "" if attempt > self._retries else f" within {self._deadline:g} s"
                    tries = f" after {attempt} attempts" if attempt > 1 else ""
                    raise RemoteServiceError(f"{error}{tries}{late}") from None
            time.sleep(wait)

    def _parsed(self, url: str, queries: list[str], k: int, end: float) -> list[SearchResult]:
        if not self._slots.acquire(timeout=max(0.0, end - time.monotonic())):
            raise RemoteServiceError(
                f"retriever {url}: too many requests at once; raise retriever.concurrency"
            )
        try:
            return _parse(
                url,
                self._post(url, queries, k, min(end, time.monotonic() + self._timeout)),
                len(queries),
                k,
            )
        finally:
            self._slots.release()

    def _post(self, url: str, queries: list[str], k: int, end: float) -> Any:
        body = {"queries": queries, "topk": k, "return_scores": True}
        timeout = max(0.001, end - time.monotonic())
        try:
            with self._client.stream("POST", url, json=body, timeout=timeout) as response:
                content = _read(response, end)
        except httpx.TransportError as error:
            raise _TemporaryError(
                f"retriever {url}: {_reason(error)}; is the server running?"
            ) from None
        status = response.status_code
        if status == 429 or status >= 500:
            raise _TemporaryError(f"retriever {url}: status {status}", _retry_after(response))
        if status != 200:
            raise RemoteServiceError(f"retriever {url}: status {status}: {_excerpt(content)}")
        try:
            return json.loads(content)
        except ValueError:
            raise RemoteServiceError(
                f"retriever {url}: expected JSON, got {_excerpt(content)!r}; is this a /retrieve "
                "server?"
            ) from None


class _TemporaryError(RemoteServiceError):
    """A failure that may not occur again, after `retry_after` seconds at the earliest."""

    def __init__(self, message: str, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


def _read(response: httpx.Response, end: float) -> bytes:
    """Read the body in chunks, so that a slow server cannot exceed the deadline.

    Raises httpx.ReadTimeout.
    """
    chunks = []
    for chunk in response.iter_bytes():
        chunks.append(chunk)
        if time.monotonic() > end:
            raise httpx.ReadTimeout("")
    return b"".join(chunks)


def _retry_after(response: httpx.Response) -> float:
    """The Retry-After header in seconds; 0 if it is missing or a date."""
    value = response.headers.get("retry-after", "")
    return float(value) if value.isascii() and value.isdigit() else 0.0


def _endpoint(url: str) -> str:
    check_url(url, "retriever", "http://127.0.0.1:8000")
    url = url.rstrip("/")
    return url if url.endswith("/retrieve") else url + "/retrieve"


def _reason(error: httpx.TransportError) -> str:
    return (
        "no answer in time"
        if isinstance(error, httpx.TimeoutException)
        else str(error) or type(error).__name__
    )


def _excerpt(content: bytes) -> str:
    return " ".join(content.decode("utf-8", "replace").split())[:200]


def _parse(url: str, answer: Any, count: int, k: int) -> list[SearchResult]:
    """Parse a response with or without scores. Of a server that ignores `topk`, the first `k` hits.

    Raises RemoteServiceError for other forms.
    """
    lists = answer.get("result") if isinstance(answer, dict) else None
    if not isinstance(lists, list) or len(lists) != count:
        raise RemoteServiceError(
            f'retriever {url}: expected "result" with {count} lists; is this a /retrieve server?'
        )
    errors = answer.get("errors") or [None] * count
    try:
        return [
            SearchResult(error=error)
            if error
            else SearchResult(tuple(_hit(record) for record in records[:k]))
            for records, error in zip(lists, errors, strict=True)
        ]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RemoteServiceError(
            f"retriever {url}: cannot read its hits ({type(error).__name__}: {error})"
        ) from None


def _hit(record: dict[str, Any]) -> Hit:
    document = record.get("document", record)
    contents = document.get("contents")
    if contents is None:
        contents = f'"{document["title"]}"\n{document["text"]}'
    if not isinstance(contents, str):
        raise TypeError(f"contents: expected text, got {type(contents).__name__}")
    return Hit(str(document.get("id", "")), contents, float(record.get("score", 0.0)))
