"""The form of /retrieve: a request body in, answers out, in the dialects that search agents already
speak.

request      {"queries": [str], "topk": int or null, "return_scores": bool}  (or "query": str)
scores on    {"result": [[{"document": {"id", "contents"}, "score": float}, ...] per query]}
scores off   {"result": [[{"id", "contents"}, ...] per query]}
A query that failed has no hits; `"errors": [str or null per query]` is then there too.
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
"""Made once: json.dumps makes an encoder for every call that asks for anything but its defaults."""


class RetrieveRequest(BaseModel):
    """The body of POST /retrieve. Unknown fields are ignored, as other servers do."""

    queries: list[str] | None = Field(None, description="The queries; or give one as `query`.")
    query: str | None = Field(None, description="One query; the answer is then a list of one list.")
    topk: Annotated[int, Field(ge=1)] | None = Field(
        None, description="Passages per query; null: the server's own."
    )
    return_scores: bool = Field(False, description="Wrap every document with its score.")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request asks for: these queries, `k` hits each, with scores or without."""

    queries: list[str]
    k: int
    scores: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one query as JSON pieces (UTF-8), which every dialect puts together in its
    way.
    """

    documents: tuple[bytes, ...] = ()
    scores: tuple[bytes, ...] = ()
    error: str | None = None

    def __len__(self) -> int:
        """Bytes of its pieces."""
        return sum(map(len, self.documents)) + sum(map(len, self.scores))


def parse_request(
    raw: bytes, *, default_k: int, max_k: int, max_queries: int, max_query_chars: int
) -> Wanted:
    """Read a request, whatever its content type: `curl -d` and some agents do not say JSON.

    A query beyond `max_query_chars` refuses the request only where no other query could be
    answered; else it is left to fail alone (`query_problem`).

    Raises:
        InvalidInputError: malformed, or beyond a limit; one sentence that never repeats the input.
    """
    try:
        body = RetrieveRequest.model_validate_json(raw)
    except ValidationError as error:
        first, *others = error.errors(include_url=False, include_input=False)
        where = ".".join(map(str, first["loc"]))
        more = f" (and {len(others)} more)" if others else ""
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
    return Wanted(queries, k, body.return_scores)


def encode_answer(result: SearchResult) -> Answer:
    """The pieces of one query's answer. An answer that JSON cannot carry becomes an error of this
    query.
    """
    if result.error is not None:
        return Answer(error=result.error)
    scores = [float(hit.score) for hit in result.hits]
    if not all(map(math.isfinite, scores)):
        return Answer(error="a score is not a finite number")
    return Answer(
        tuple(map(_document, result.hits)), tuple(repr(score).encode() for score in scores)
    )


def response_body(answers: Sequence[Answer], scores: bool) -> bytes:
    """The answers of one request in its dialect."""
    lists = b",".join(map(_with_scores if scores else _bare, answers))
    errors = b""
    if any(answer.error is not None for answer in answers):
        errors = b',"errors":' + json.dumps([answer.error for answer in answers]).encode()
    return b'{"result":[' + lists + b"]" + errors + b"}"


def _document(hit: Hit) -> bytes:
    return _TO_JSON({"id": hit.id, "contents": hit.contents}).encode("utf-8", "replace")


def _with_scores(answer: Answer) -> bytes:
    pairs = zip(answer.documents, answer.scores, strict=True)
    return (
        b"["
        + b",".join(
            b'{"document":' + document + b',"score":' + score + b"}" for document, score in pairs
        )
        + b"]"
    )


def _bare(answer: Answer) -> bytes:
    return b"[" + b",".join(answer.documents) + b"]"
