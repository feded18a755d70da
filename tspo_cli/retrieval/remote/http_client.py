"""A retriever behind HTTP, with the protocol of Search-R1's server: POST /retrieve with `queries`,
`topk` and `return_scores`.
"""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Sequence
from typing import Any

import httpx

from tspo_cli.config.urls import URL_FORM, below, check_url, shown_url
from tspo_cli.errors import InvalidInputError, RemoteServiceError
from tspo_cli.retrieval.remote.answer_body import ACCEPTED, read_body
from tspo_cli.retrieval.remote.patience import (
    UNTIL_DEADLINE,
    Notices,
    Patience,
    ServiceUnavailableError,
    TemporaryError,
    ask_until_answered,
)
from tspo_cli.retrieval.remote.read_answer import (
    MalformedAnswerError,
    excerpt,
    read_answer,
    with_source,
)
from tspo_cli.retrieval.remote.timed_transport import (
    drop_redirect,
    end_requests_at,
    no_cookies,
    timed_transport,
)
from tspo_cli.retrieval.types import IDENTITY_HEADER, RetrieverInfo, SearchResult
from tspo_cli.text.access_token import authorisation
from tspo_cli.text.whole_numbers import whole_number

MAX_BATCH = 256
"""Queries per request, below the limits of the servers in use."""
MAX_PASSAGE_CHARS = 100_000
_PROBE_SECONDS = 5.0
_START_SECONDS = 3.0
_BUSY = {429, 503}
_PASSING = {404, 405, 408, 425}
"""Statuses below 500 that a starting server or its proxy may give."""
_LOCKED = {401, 403}


class HttpRetriever:
    """Searches with one or several equal servers. If a server fails, the next one is tried.

    Scores, ids and contents are those of the server's searcher. It is thread-safe; threads share
    its connections. Proxies of the environment are not used, because the servers are mostly local.
    Redirects are not followed.

    Args:
        urls: base URLs (`http://127.0.0.1:8000`); `/retrieve` is added where it is missing.
        timeout: seconds for one attempt.
        retries: further attempts after a failed connection, a status that may pass or an answer
            that is none; -1: until the deadline.
        deadline: seconds for all attempts and the waits between them.
        concurrency: most requests at once; others wait, within the deadline.
        token: sent as `Authorization: Bearer ...`; empty: none.
        max_passage_chars: a search that finds a longer passage has failed.
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
        retries: int = UNTIL_DEADLINE,
        *,
        deadline: float = 100.0,
        concurrency: int = 64,
        token: str = "",
        max_passage_chars: int = MAX_PASSAGE_CHARS,
        first_wait: float = 0.5,
    ) -> None:
        if not urls:
            raise InvalidInputError("retriever: expected the URL of a server, got none")
        self.urls = tuple(_endpoint(url) for url in urls)
        self._timeout = timeout
        self._patience = Patience(deadline, retries, first_wait)
        self._notices = Notices()
        self._max_passage_chars = max_passage_chars
        self._served: dict[str, str] = {}
        self._turn = itertools.count()
        self._slots = threading.BoundedSemaphore(concurrency)
        headers = {**ACCEPTED, **authorisation(token)}
        self._client = httpx.Client(
            headers=headers,
            transport=timed_transport(concurrency),
            cookies=no_cookies(),
            event_hooks={"response": [drop_redirect]},
        )

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        """At most `k` hits for each query. A query that a server refuses, or whose answer cannot be
        read, has an error.

        Raises:
            ServiceUnavailableError: no server has answered for `deadline` seconds.
            InvalidInputError: a server serves another index than before.
        """
        results: list[SearchResult] = []
        for start in range(0, len(queries), MAX_BATCH):
            # A lone surrogate has no UTF-8 encoding and would fail the whole batch.
            batch = [
                query.encode("utf-8", "replace").decode()
                for query in queries[start : start + MAX_BATCH]
            ]
            results += self._answers(batch, k)
        return results

    def _answers(self, queries: list[str], k: int, *, is_part: bool = False) -> list[SearchResult]:
        """The results of one request. If the server refuses it, or fails twice and answers another
        query, the halves are asked alone, so that one query fails no other. `is_part`: `queries`
        are such a half.
        """
        try:
            return self._ask(queries, k, is_part or len(queries) > 1)
        except ServiceUnavailableError as error:
            if not self._concerns_queries(error):
                raise
            return [SearchResult(error=str(error.__cause__))] * len(queries)
        except RemoteServiceError as error:
            if len(queries) == 1:
                return [SearchResult(error=str(error))]
        middle = len(queries) // 2
        halves = (queries[:middle], queries[middle:])
        return [result for half in halves for result in self._answers(half, k, is_part=True)]

    def check(self) -> None:
        """Request one hit from every server, and check that all serve the same index.

        Raises:
            RemoteServiceError: a server does not answer, or not in the expected form.
            InvalidInputError: two servers serve different indexes, or search them differently.
        """
        for url in self.urls:
            (result,) = self._first_answer(url)
            if result.error is not None:
                raise RemoteServiceError(result.error)
        known = {
            shown_url(url): info for url in self.urls if (info := self._describe(url)).index_digest
        }
        if len({info.index_digest for info in known.values()}) > 1:
            serves = ", ".join(f"{url} ({info.index_digest[:12]})" for url, info in known.items())
            raise InvalidInputError(
                f"retriever: these servers serve different indexes: {serves}; "
                'for parts of one corpus set retriever.servers = "shards"'
            )
        searches = {url: _search_of(info) for url, info in known.items()}
        if len(set(searches.values())) > 1:
            differ = ", ".join(f"{url} {search}" for url, search in searches.items())
            raise InvalidInputError(
                f"retriever: these servers search one index differently: {differ}; give all the "
                "same --set"
            )

    def _first_answer(self, url: str) -> list[SearchResult]:
        """Ask for one hit. A server that says it is busy or opening its index is waited for. What
        else fails is asked again for `_START_SECONDS`, and nobody listening is said at once: the
        URL may be wrong.
        """
        begun = time.monotonic()

        def attempt(number: int, end: float) -> list[SearchResult]:
            try:
                return self._attempt(url, ["ping"], 1, time.monotonic() + self._timeout)
            except _BusyError:
                raise
            except TemporaryError as error:
                is_last = number == self._patience.retries or isinstance(error, _NobodyListensError)
                if not is_last and time.monotonic() - begun < _START_SECONDS:
                    raise
                hint = "" if isinstance(error, MalformedAnswerError) else "; is the server running?"
                raise RemoteServiceError(f"{error}{hint}") from None

        service = f"retriever {shown_url(url)}"
        return ask_until_answered(attempt, service, self._patience, self._notices)

    def describe(self) -> RetrieverInfo:
        """The first server's description of its index at /healthz. For a server that is not tspo's
        the fields are empty.
        """
        return self._describe(self.urls[0])

    def _describe(self, url: str) -> RetrieverInfo:
        end_requests_at(time.monotonic() + self._timeout)
        try:
            health = _beside(url, "healthz")
            with (
                self._notices.asking(f"retriever {shown_url(health)}", self._timeout),
                self._client.stream("GET", health, timeout=self._timeout) as answer,
            ):
                content = read_body(answer)
            facts = json.loads(content) if answer.status_code == 200 else {}
        except (httpx.HTTPError, RemoteServiceError, ValueError, RecursionError):
            facts = {}
        return _described(facts if isinstance(facts, dict) else {})

    def close(self) -> None:
        """Close pooled connections."""
        self._client.close()

    def _ask(self, queries: list[str], k: int, suspect: bool) -> list[SearchResult]:
        """`suspect`: some of the queries may be what the server fails at."""
        first = next(self._turn)

        def attempt(number: int, end: float) -> list[SearchResult]:
            url = self.urls[(first + number) % len(self.urls)]
            try:
                return self._attempt(url, queries, k, end)
            except (MalformedAnswerError, _FailedRequestError) as error:
                if number and suspect and self._answers_others(url):
                    raise RemoteServiceError(str(error)) from error
                raise

        service = f"retriever {shown_url(self.urls[0])}"
        return ask_until_answered(attempt, service, self._patience, self._notices)

    def _concerns_queries(self, error: ServiceUnavailableError) -> bool:
        """True if the failure is one of the queries, not of the server: what was sent back could
        not be read, or the server failed while it answers another query.
        """
        last = error.__cause__
        if isinstance(last, MalformedAnswerError):
            return True
        return isinstance(last, _FailedRequestError) and self._answers_others(last.url)

    def _answers_others(self, url: str) -> bool:
        try:
            self._attempt(url, ["ping"], 1, time.monotonic() + _PROBE_SECONDS)
        except RemoteServiceError:
            return False
        return True

    def _attempt(self, url: str, queries: list[str], k: int, end: float) -> list[SearchResult]:
        """The results of one request. Raises RemoteServiceError with the URL, and TemporaryError
        where another attempt may help.
        """
        source = f"retriever {shown_url(url)}"
        if not self._slots.acquire(timeout=max(0.0, end - time.monotonic())):
            raise TemporaryError(
                f"{source}: too many requests at once; raise retriever.concurrency"
            )
        try:
            content = self._post(url, queries, k, min(end, time.monotonic() + self._timeout))
            results = read_answer(content, len(queries), k, self._max_passage_chars)
        except MalformedAnswerError as error:
            raise MalformedAnswerError(f"{source}: {error}") from None
        except (TemporaryError, ServiceUnavailableError):
            raise
        except RemoteServiceError as error:
            raise RemoteServiceError(f"{source}: {error}") from None
        finally:
            self._slots.release()
        return with_source(results, source)

    def _post(self, url: str, queries: list[str], k: int, end: float) -> bytes:
        body = {"queries": queries, "topk": k, "return_scores": True}
        source = f"retriever {shown_url(url)}"
        end_requests_at(end)
        timeout = max(0.001, end - time.monotonic())
        try:
            with self._client.stream("POST", url, json=body, timeout=timeout) as response:
                content = read_body(response)
        except httpx.DecodingError as error:
            reason = excerpt(str(error))
            raise MalformedAnswerError(f"cannot decode its answer ({reason})") from None
        except httpx.TimeoutException:
            raise _FailedRequestError(f"{source}: no answer in time", url) from None
        except httpx.HTTPError as error:
            reason = excerpt(str(error)) or type(error).__name__
            kind = _NobodyListensError if isinstance(error, httpx.ConnectError) else TemporaryError
            raise kind(f"{source}: {reason}") from None
        status = response.status_code
        if status == 200:
            self._expect_same_index(url, response.headers.get(IDENTITY_HEADER, ""))
            return content
        if status == 500:
            raise _FailedRequestError(f"{source}: status {status}", url, _retry_after(response))
        if status in _BUSY:
            raise _BusyError(f"{source}: status {status}", _retry_after(response))
        if status > 500 or status in _PASSING:
            raise TemporaryError(f"{source}: status {status}", _retry_after(response))
        if 300 <= status < 400:
            raise TemporaryError(f"{source}: status {status}, a redirect, which is not followed")
        if status in _LOCKED:
            raise ServiceUnavailableError(
                f"{source}: status {status}: {excerpt(content)}; check the token "
                "(retriever.token_file), then go on with --resume"
            )
        raise RemoteServiceError(f"status {status}: {excerpt(content)}")

    def _expect_same_index(self, url: str, served: str) -> None:
        """A server that was started again may have another index, whose passages would mix with
        those of the first one. Servers that are not tspo's do not say what they serve.
        """
        if served and self._served.setdefault(url, served) != served:
            raise InvalidInputError(
                f"retriever {shown_url(url)}: it serves another index, or searches it with other "
                "settings, than when this command began; start it with the first ones, then go on "
                "with --resume"
            )


class _NobodyListensError(TemporaryError):
    """There is no connection to the server."""


class _BusyError(TemporaryError):
    """The server says that it is there and asks to wait."""


class _FailedRequestError(TemporaryError):
    """The server at `url` was reached and failed: perhaps because of the query."""

    def __init__(self, reason: str, url: str, retry_after: float = 0.0) -> None:
        super().__init__(reason, retry_after)
        self.url = url


def _retry_after(response: httpx.Response) -> float:
    """The Retry-After header in seconds; 0 if it is missing or a date."""
    return float(whole_number(response.headers.get("retry-after", ""), digits=9) or 0)


def _endpoint(url: str) -> str:
    check_url(url, "retriever", URL_FORM)
    return _beside(url, "retrieve")


def _beside(url: str, name: str) -> str:
    """The URL of `name` on the server with this base URL, or with this URL of /retrieve."""
    base, mark, parameters = url.partition("#")[0].partition("?")
    return below(base.rstrip("/").removesuffix("/retrieve") + mark + parameters, f"/{name}")


def _search_of(info: RetrieverInfo) -> str:
    """The search settings in words, with the digest of the reranker's files."""
    reranker = {"reranker_digest": info.reranker_digest[:12]} if info.reranker_digest else {}
    return json.dumps({**info.search, **reranker}, sort_keys=True)


def _described(facts: dict[str, Any]) -> RetrieverInfo:
    """The description; a fact of another type than ours counts as missing."""

    def fact(name: str, kind: type, missing: Any) -> Any:
        value = facts.get(name)
        return value if isinstance(value, kind) and not isinstance(value, bool) else missing

    return RetrieverInfo(
        kind=fact("kind", str, None),
        passages=fact("passages", int, None),
        index_digest=fact("index", str, ""),
        encoder=fact("encoder", str, None),
        parameters=fact("parameters", dict, None),
        search=fact("search", dict, {}),
        reranker_digest=fact("reranker", str, ""),
    )
