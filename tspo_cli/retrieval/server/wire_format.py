"""The wire format of /retrieve, in the dialects that search agents use.

request      {"queries": [str], "topk": int or null, "return_scores": bool}
             "query": str may stand for "queries", "k" or "top_k" for "topk"; no other fields
scores on    {"result": [[{"document": {"id", "contents"}, "score": float}, ...] per query]}
scores off   {"result": [[{"id", "contents"}, ...] per query]}
A query that failed has no hits; the response then has `"errors": [str or null per query]` too.
"""

from __future__ import annotations

import difflib
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError
from pydantic_core import ErrorDetails

from tspo_cli.errors import InvalidInputError
from tspo_cli.retrieval.types import Hit, SearchResult, query_problem

_TO_JSON = json.JSONEncoder(ensure_ascii=False).encode
"""Created once: json.dumps creates an encoder for every call with non-default options."""
_NAME_CHARACTERS = 40
"""Of an unknown field's name, in an error."""


def _no_truth_value(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("expected a whole number, got a truth value")
    return value


_Count = Annotated[int, Field(ge=1), BeforeValidator(_no_truth_value)]


# Null counts as missing.
_ONE_OF: list[JsonValue] = [
    {"required": [name], "properties": {name: {"type": kind}}}
    for name, kind in (("queries", "array"), ("query", "string"))
]


class RetrieveRequest(BaseModel):
    """The body of POST /retrieve. A field that is not listed here is refused: a request that asks
    for something else would otherwise be answered as if it had not asked.
    """

    model_config = ConfigDict(extra="forbid", json_schema_extra={"oneOf": _ONE_OF})

    queries: list[str] | None = Field(None, description="The queries; or give one as `query`.")
    query: str | None = Field(None, description="One query; the answer is then a list of one list.")
    topk: _Count | None = Field(None, description="Passages per query; null: the server's default.")
    k: _Count | None = Field(None, description="Another name of `topk`.")
    top_k: _Count | None = Field(None, description="Another name of `topk`.")
    return_scores: bool = Field(False, description="Wrap every document with its score.")

    def count(self, default: int) -> tuple[str, int]:
        """The name under which the request gives the number of passages, and that number.

        Raises:
            InvalidInputError: two names with different numbers.
        """
        names = {"topk": self.topk, "k": self.k, "top_k": self.top_k}
        given = {name: value for name, value in names.items() if value is not None}
        if len(set(given.values())) > 1:
            raise InvalidInputError(
                f"{' and '.join(given)} ask for different numbers of passages; send one of them"
            )
        return next(iter(given.items()), ("topk", default))


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
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        raise InvalidInputError(f"{_sentence(errors[0])}{more}") from None
    # Each pair has a colon. There are more where a query has some, or a field is given twice.
    if raw.count(b":") > len(body.model_fields_set):
        _refuse_repeated(raw)
    if (body.queries is None) == (body.query is None):
        raise InvalidInputError(
            'expected either "queries" (a list of strings) or "query" (one string)'
        )
    queries = body.queries if body.queries is not None else [body.query or ""]
    name, k = body.count(default_k)
    if len(queries) > max_queries:
        raise InvalidInputError(
            f"queries: expected at most {max_queries} in one request, got {len(queries)}"
        )
    if k > max_k:
        raise InvalidInputError(
            f"{name}: expected at most {max_k}, got {k if k < 10**9 else 'far more'}"
        )
    if queries and all(len(query) > max_query_chars for query in queries):
        raise InvalidInputError(str(query_problem(queries[0], max_query_chars)))
    return SearchRequest(queries, k, body.return_scores)


def _refuse_repeated(raw: bytes) -> None:
    """Refuse a valid request that gives a field twice: one of the two would win without a word."""

    def check(pairs: list[tuple[str, Any]]) -> None:
        for name, count in Counter(name for name, _ in pairs).items():
            if count > 1:
                raise InvalidInputError(f"{name}: given {count} times; send it once")

    json.loads(raw.decode(), object_pairs_hook=check, parse_int=str, parse_float=str)


def _sentence(error: ErrorDetails) -> str:
    """One validation error. The names of fields are shown, cut and without odd characters; values
    are not.
    """
    where = ".".join(ascii(part).strip("'\"")[:_NAME_CHARACTERS] for part in error["loc"])
    if error["type"] == "extra_forbidden":
        known = list(RetrieveRequest.model_fields)
        close = difflib.get_close_matches(where, known, 1)
        hint = f"; did you mean {close[0]}?" if close else ""
        return f"{where}: unknown field{hint} (known: {', '.join(known)})"
    message = error["msg"].removeprefix("Value error, ")
    return f"{where}{': ' if where else ''}{message}"


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
