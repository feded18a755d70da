"""The wire format of /retrieve, in the dialects that search agents use.

request      {"queries": [str], "topk": int or null, "return_scores": bool}  (or "query": str)
scores on    {"result": [[{"document": {"id", "contents"}, "score": float}, ...] per query]}
scores off   {"result": [[{"id", "contents"}, ...] per query]}
A query that failed has no hits; the response then has `"errors": [str or null per query]` too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, Field, ValidationError

from tspo_cli.errors import InvalidInputError
from tspo_cli.retrieval.types import Hit, SearchResult, query_problem

_TO_JSON = json.JSONEncoder(ensure_ascii=False).encode
"""Created once: json.dumps creates an encoder for every call with non-default options."""


class RetrieveRequest(BaseModel):
    """The body of POST /retrieve. Unknown fields are ignored, as by other servers."""

    queries: list[str] | None = Field(None, description="The queries; or give one as `query`.")
    query: str | None = Field(None, description="One query; the answer is then a list of one list.")
    topk: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Passages per query; null: the server's default."
    )
    return_scores: bool = Field(False, description="Wrap every document with its score.")


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """A checked request: the queries, `k` hits for each, with scores or without."""

    queries: list[str]
    k: int
    scores: bool


@dataclass(frozen=True, slots=True)
class EncodedResult:
    """The result of one query as JSON fragments (UTF-8), which each dialect joins differently."""

    documents: tuple[bytes, ...] = ()
    scores: tuple[bytes, ...] = ()
    error: str | None = None

    def __len__(self) -> int:
        """Bytes of the fragments."""
        return sum(map(len, self.documents)) + sum(map(len, self.scores))


def parse_request(
    raw: bytes, *, default_k: int, max_k: int, max_queries: int, max_query_chars: int
) -> SearchRequest:
    """Parse a request of any content type: `curl -d` and some agents do not declare JSON.

    A query longer than `max_query_chars` fails alone (`query_problem`). If all queries are too
    long, the request is refused.

    Raises:
        InvalidInputError: malformed, or beyond a limit; one sentence that never repeats the input.
    """
    try:
        body = RetrieveRequest.model_validate_json(raw)
    except ValidationError as error:
        errors = error.errors(include_url=False, include_input=False)
        first = errors[0]
        where = ".".join(map(str, first["loc"]))
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise InvalidInputError(f"{where}{': ' if where else ''}{first['msg']}{more}") from None
    if (body.queries is None) == (body.query is None):
        raise InvalidInputError(
            'expected either "queries" (a list of strings) or "query" (one string)'
        )
    queries = body.queries if body.queries is not None else [body.query or ""]
    k = body.topk or default_k
    if len(queries) > max_queries:
        raise InvalidInputError(
            f"queries: expected at most {max_queries} in one request, got {len(queries)}"
        )
    if k > max_k:
        raise InvalidInputError(
            f"topk: expected at most {max_k}, got {k if k < 10**9 else 'far more'}"
        )
    if queries and all(len(query) > max_query_chars for query in queries):
        raise InvalidInputError(str(query_problem(queries[0], max_query_chars)))
    return SearchRequest(queries, k, body.return_scores)


def encode_result(result: SearchResult) -> EncodedResult:
    """Encode the result of one query. A result that JSON cannot represent becomes an error."""
    if result.error is not None:
        return EncodedResult(error=result.error)
    scores = [float(hit.score) for hit in result.hits]
    if not all(map(math.isfinite, scores)):
        return EncodedResult(error="a score is not a finite number")
    return EncodedResult(
        tuple(map(_document, result.hits)), tuple(repr(score).encode() for score in scores)
    )


def response_body(results: Sequence[EncodedResult], scores: bool) -> bytes:
    """The response to one request in its dialect."""
    lists = b",".join(map(_with_scores if scores else _without_scores, results))
    errors = b""
    if any(result.error is not None for result in results):
        errors = b',"errors":' + json.dumps([result.error for result in results]).encode()
    return b'{"result":[' + lists + b"]" + errors + b"}"


def _document(hit: Hit) -> bytes:
    return _TO_JSON({"id": hit.id, "contents": hit.contents}).encode("utf-8", "replace")


def _with_scores(result: EncodedResult) -> bytes:
    pairs = zip(result.documents, result.scores, strict=True)
    return (
        b"["
        + b",".join(
            b'{"document":' + document + b',"score":' + score + b"}" for document, score in pairs
        )
        + b"]"
    )


def _without_scores(result: EncodedResult) -> bytes:
    return b"[" + b",".join(result.documents) + b"]"
