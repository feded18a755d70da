"""A Qdrant collection as the retriever, with Qdrant's own client.

Sparse vectors represent BM25: the weight of a word in a passage is tf / (tf + k1 (1 - b + b length
/ mean length)) (Lucene's form), in a query the count of the word. Qdrant multiplies by the word's
idf over the whole collection, also if it is distributed. A 32-bit hash turns words into indices.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from tspo_cli.config.schema import QdrantConfig
from tspo_cli.config.sections.index_settings import Bm25Settings
from tspo_cli.config.urls import check_url, shown_url
from tspo_cli.console import agreeing, counted, warn
from tspo_cli.errors import InvalidInputError, RemoteServiceError
from tspo_cli.packages import missing
from tspo_cli.retrieval.bm25.bm25_ranker import lost_words, tokens
from tspo_cli.retrieval.dense.presets import resolve_preset
from tspo_cli.retrieval.remote.patience import (
    Notices,
    Patience,
    ServiceUnavailableError,
    TemporaryError,
    ask_until_answered,
)
from tspo_cli.retrieval.remote.read_answer import MalformedAnswerError, excerpt, read_hits
from tspo_cli.retrieval.remote.timed_transport import (
    end_requests_at,
    heed_deadlines,
    usable_proxies,
)
from tspo_cli.retrieval.search_settings import index_settings
from tspo_cli.retrieval.types import RetrieverInfo, SearchResult
from tspo_cli.text.secrets import key_of

if TYPE_CHECKING:
    from qdrant_client import QdrantClient

    from tspo_cli.retrieval.dense.encoder import Encoder

KEY_VARIABLE = "QDRANT_API_KEY"
SPARSE_NAMES = {"words": "bm25", "ngrams": "bm25_ngrams"}
"""The sparse vector of each kind of tokens: queries of the other kind are refused, not lost."""
Encode = Callable[[list[str]], Any]
"""Texts to vectors of length one, float32 [texts, dim]."""


_PROBE = "ping"
"""A query that any collection answers."""
_PROBE_SECONDS = 5.0
"""For one query, to see whether the server answers it."""


class _FailedRequestError(TemporaryError):
    """The server was reached and failed: perhaps because of the query."""


class QdrantRetriever:
    """Searches a collection whose payload has each passage's id and contents. It is thread-safe.

    Args:
        encode: encodes the queries of a dense collection, prefix included; None for a sparse one.
        query_prefix: this prefix, the encoder's own or the given one.
        timeout: seconds for one attempt.
        patience: how long a search waits for a server that does not answer.
        max_passage_chars: a search that finds a longer passage has failed.
    """

    blocking = True

    def __init__(
        self,
        client: QdrantClient,
        config: QdrantConfig,
        encode: Encode | None,
        query_prefix: str = "",
        *,
        timeout: float = 30.0,
        patience: Patience = Patience(100.0),
        max_passage_chars: int = 100_000,
    ) -> None:
        self._client, self._config, self._encode = client, config, encode
        self._query_prefix = query_prefix
        self._timeout, self._patience, self._notices = timeout, patience, Notices()
        self._max_passage_chars = max_passage_chars
        self._service = f"qdrant {_shown(config.url)}"
        self._encoding = threading.Lock()
        sparse = SPARSE_NAMES[config.tokens] if config.kind == "sparse" else ""
        self._vector = config.vector or sparse
        self._bm25 = Bm25Settings(tokens=config.tokens, min_word=config.min_word)
        self._warned = False

    def search(self, queries: Sequence[str], k: int) -> list[SearchResult]:
        """At most `k` hits for each query. A query that Qdrant refuses or fails at, or whose answer
        cannot be read, has an error.

        Raises:
            ServiceUnavailableError: Qdrant has not answered for the whole deadline.
        """
        results = [
            SearchResult() if query.strip() else SearchResult(error="query: empty")
            for query in queries
        ]
        vectors = self._vectors([query.encode("utf-8", "replace").decode() for query in queries])
        # A sparse query without words has no vector, and no hits.
        valid = [
            i for i, vector in enumerate(vectors) if vector is not None and results[i].error is None
        ]
        if not valid:
            return results
        asked = [vectors[i] for i in valid]
        try:
            answers = ask_until_answered(
                lambda attempt, end: self._query(asked, k, end),
                self._service,
                self._patience,
                self._notices,
            )
        except ServiceUnavailableError as error:
            if not self._concerns_queries(error):
                raise
            answers = self._alone(asked, k, str(error.__cause__))
        except RemoteServiceError as error:
            answers = self._alone(asked, k, str(error))
        for i, answer in zip(valid, answers, strict=True):
            results[i] = answer
        return results

    def _concerns_queries(self, error: ServiceUnavailableError) -> bool:
        """True if the failure is one of the queries, not of Qdrant: what came back could not be
        read, or it failed while it answers another query.
        """
        if not isinstance(error.__cause__, _FailedRequestError):
            return isinstance(error.__cause__, MalformedAnswerError)
        try:
            self._query(self._vectors([_PROBE]), 1, time.monotonic() + _PROBE_SECONDS)
        except RemoteServiceError:
            return False
        return True

    def _alone(self, vectors: list[Any], k: int, reason: str) -> list[SearchResult]:
        """One answer to each query, after none to all of them together. `reason` is the error of a
        single one, and of those for which no time is left.
        """
        end = time.monotonic() + self._timeout
        answers: list[SearchResult] = []
        for vector in vectors:
            if len(vectors) == 1 or time.monotonic() > end:
                answers.append(SearchResult(error=reason))
                continue
            try:
                answers += self._query([vector], k, end)
            except RemoteServiceError as error:
                answers.append(SearchResult(error=str(error)))
        return answers

    def describe(self) -> RetrieverInfo:
        """The kind of vectors, the encoder and its query prefix; a collection has no digest."""
        return RetrieverInfo(
            kind=self._config.kind,
            encoder=Path(self._config.encoder).name or None,
            search={"query_prefix": self._query_prefix} if self._query_prefix else {},
        )

    def check(self) -> None:
        """Check the collection with one query.

        Raises:
            RemoteServiceError: Qdrant does not answer, or has no such collection or vector.
            InvalidInputError: the vectors do not fit the encoder, or the payload has no passages.
        """
        name = self._config.collection
        end_requests_at(time.monotonic() + self._timeout)
        with one_line_errors(self._service):
            if not self._client.collection_exists(name):
                raise InvalidInputError(f"{self._service}: no collection {name!r}")
        (vector,) = self._vectors([_PROBE])
        (result,) = self._query([vector], 1, time.monotonic() + self._timeout)
        if result.error is not None:
            raise InvalidInputError(result.error)

    def _vectors(self, queries: list[str]) -> list[Any]:
        if self._encode is None:
            vectors = [sparse_vector(Counter(tokens(query, self._bm25))) for query in queries]
            self._warn_once(queries, vectors)
            return vectors
        with self._encoding:
            return list(self._encode(queries).tolist())

    def _warn_once(self, queries: list[str], vectors: list[Any]) -> None:
        lost = (query for query, vector in zip(queries, vectors, strict=True) if vector is None)
        for query in lost:
            if not self._warned and (reason := lost_words(query, self._bm25)) is not None:
                self._warned = True
                warn(f"BM25 finds nothing for {query[:60]!r}: {reason}")

    def _query(self, vectors: list[Any], k: int, end: float) -> list[SearchResult]:
        from qdrant_client import models

        config = self._config
        requests = [
            models.QueryRequest(
                query=vector,
                using=self._vector or None,
                limit=k,
                params=models.SearchParams(exact=True)
                if config.exact and config.kind == "dense"
                else None,
                with_payload=[config.id_field, config.contents_field],
            )
            for vector in vectors
        ]
        seconds = max(1, ceil(min(self._timeout, end - time.monotonic())))
        end_requests_at(time.monotonic() + seconds)
        with one_line_errors(self._service):
            answers = self._client.query_batch_points(
                config.collection, requests=requests, timeout=seconds
            )
        if len(answers) != len(vectors):
            queries = agreeing(len(vectors), "query", "queries")
            reason = f"{counted(len(answers), 'result')} for {queries}"
            raise MalformedAnswerError(f"{self._service}: {reason}")
        return [self._result(answer.points, k) for answer in answers]

    def _result(self, points: Iterable[Any], k: int) -> SearchResult:
        id_field, contents_field = self._config.id_field, self._config.contents_field
        records = []
        for point in sorted(points, key=_by_score_and_position):
            payload = point.payload or {}
            if not isinstance(payload.get(contents_field), str):
                reason = f"point {point.id}: its payload has no text {contents_field!r}"
                return SearchResult(error=f"{self._service}: {reason}")
            document = {"id": payload.get(id_field, point.id), "contents": payload[contents_field]}
            records.append({"document": document, "score": point.score})
        result = read_hits(records, k, self._max_passage_chars)
        error = result.error and f"{self._service}: {result.error}"
        return SearchResult(result.hits, error)


def _by_score_and_position(point: Any) -> tuple[float, int]:
    """Qdrant does not define the order of equal scores; here it is the order of the corpus."""
    return -point.score, point.id if isinstance(point.id, int) else 0


def connect(
    config: QdrantConfig, *, timeout: float, patience: Patience, max_passage_chars: int
) -> QdrantRetriever:
    """Open the collection that `config` names and check it.

    Raises:
        MissingResourceError: qdrant-client is not installed, or there is no such encoder on this
            machine.
        RemoteServiceError, InvalidInputError: as QdrantRetriever.check.
    """
    encode, prefix = None, ""
    if config.kind == "dense":
        given = {} if config.query_prefix == "auto" else {"query_prefix": config.query_prefix}
        encoder = load_encoder(config.encoder, given, "query_prefix")
        encode, prefix = encoder.encode_queries, encoder.query_prefix
    retriever = QdrantRetriever(
        open_client(config.url, timeout),
        config,
        encode,
        prefix,
        timeout=timeout,
        patience=patience,
        max_passage_chars=max_passage_chars,
    )
    retriever.check()
    return retriever


def open_client(url: str, timeout: float) -> QdrantClient:
    """Qdrant's client. Raises MissingResourceError without the package, InvalidInputError for a URL
    that is not http(s), or a key that cannot be one.
    """
    check_url(url, "qdrant", "http://127.0.0.1:6333")
    try:
        from qdrant_client import QdrantClient
    except ImportError as error:
        raise missing({"qdrant_client": "Qdrant"}, str(error)) from None
    key = key_of(KEY_VARIABLE) or None
    with usable_proxies():
        client = QdrantClient(
            url=url, api_key=key, timeout=max(1, round(timeout)), check_compatibility=False
        )
    heed_deadlines(client.http.client._client)
    return client


def load_encoder(name: str, given: Mapping[str, object], prefix: str) -> Encoder:
    """The encoder `name` with its own settings (`resolve_preset`) and the `given` ones, for the
    side that `prefix` names.

    Raises:
        MissingResourceError: there is no such encoder.
        InvalidInputError: a setting does not fit, or its files state what cannot be used.
    """
    from tspo_cli.retrieval.dense.encoder import Encoder

    settings = index_settings("dense", resolve_preset(name, given, said=(prefix,))).dense
    assert settings is not None
    return Encoder(name, settings)


def sparse_vector(weights: dict[str, float] | Counter[str]) -> Any:
    """A sparse vector of words; None without words."""
    from qdrant_client import models

    if not weights:
        return None
    by_index: Counter[int] = Counter()
    for word, weight in weights.items():
        index = int.from_bytes(
            hashlib.blake2b(word.encode("utf-8", "replace"), digest_size=4).digest(), "big"
        )
        by_index[index] += weight  # type: ignore[assignment]
    return models.SparseVector(
        indices=list(by_index), values=[float(weight) for weight in by_index.values()]
    )


@contextmanager
def one_line_errors(service: str) -> Iterator[None]:
    """Turn errors of Qdrant's client into those of a remote service, of one line: TemporaryError
    where another attempt may help.
    """
    from qdrant_client.common.client_exceptions import QdrantException, ResourceExhaustedResponse
    from qdrant_client.http.exceptions import (
        ApiException,
        ResponseHandlingException,
        UnexpectedResponse,
    )

    try:
        yield
    except ResourceExhaustedResponse as error:
        wait = float(max(0, error.retry_after_s))
        raise TemporaryError(f"{service}: {excerpt(str(error))}", wait) from None
    except ResponseHandlingException as error:
        reason = excerpt(str(error.source)) or type(error.source).__name__
        if isinstance(error.source, httpx.TransportError):
            raise TemporaryError(f"{service}: {reason}") from None
        raise MalformedAnswerError(f"{service}: cannot read its answer ({reason})") from None
    except UnexpectedResponse as error:
        raise _refusal(service, error.status_code or 0, excerpt(error.content)) from None
    except (AssertionError, RecursionError) as error:  # the client's own checks
        reason = excerpt(str(error)) or "no result"
        raise MalformedAnswerError(f"{service}: cannot read its answer ({reason})") from None
    except QdrantException as error:  # a Retry-After that is no number
        raise TemporaryError(f"{service}: {excerpt(str(error))}") from None
    except (ApiException, ValueError) as error:
        raise RemoteServiceError(f"{service}: {excerpt(str(error))}") from None


def _refusal(service: str, status: int, content: str) -> RemoteServiceError:
    if status == 500:
        return _FailedRequestError(f"{service}: status {status}")
    if status > 500 or status in (408, 425, 429):
        return TemporaryError(f"{service}: status {status}")
    if status in (401, 403):
        fix = f"check the key (${KEY_VARIABLE}), then go on with --resume"
        return ServiceUnavailableError(f"{service}: status {status}: {content}; {fix}")
    return RemoteServiceError(f"{service}: status {status}: {content}")


def _shown(url: str) -> str:
    return shown_url(url).rstrip("/") if "://" in url else url
