"""Reading what a server of passages answers: it is data of a stranger, and every part is checked.

An answer that cannot be read as a whole may come from a server that is starting, or from a proxy
before it; it is worth another attempt. A hit that is not one is an error of its query alone.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from tspo_cli.console import agreeing, counted
from tspo_cli.errors import RemoteServiceError
from tspo_cli.retrieval.remote.patience import TemporaryError
from tspo_cli.retrieval.types import Hit, SearchResult
from tspo_cli.text.secrets import without_secrets

MAX_HITS = 1_000
"""Hits of one query. A server that ignores `topk` is cut to it, but not one that sends a corpus."""
MAX_ID = 4_096
"""Characters of a passage's id, which may be an address. It stands in the record of every turn."""
_EXCERPT = 200


class MalformedAnswerError(TemporaryError):
    """An answer that is none of a /retrieve server's."""


class _UnreadableHitError(Exception):
    """Why a hit is not one."""


class _DuplicateKeyError(Exception):
    """The key that a JSON object has twice."""


def read_answer(content: bytes, count: int, k: int, max_chars: int) -> list[SearchResult]:
    """The results of `count` queries, at most `k` hits each, of an answer with or without scores.
    A query whose hits are malformed, or longer than `max_chars` characters, has an error.

    Raises:
        MalformedAnswerError: no JSON, or not one list for every query: perhaps another server.
        RemoteServiceError: JSON that no server should send, whatever its state.
    """
    try:
        answer = json.loads(content, object_pairs_hook=_unique)
    except RecursionError:
        raise RemoteServiceError("its JSON is nested too deeply") from None
    except _DuplicateKeyError as error:
        raise RemoteServiceError(f"its JSON has the key {error} twice") from None
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise MalformedAnswerError(
            f"expected JSON, got {excerpt(content)!r}; is this a /retrieve server?"
        ) from None
    except ValueError:
        raise RemoteServiceError("its JSON has a number of thousands of digits") from None
    lists = answer.get("result") if isinstance(answer, dict) else None
    if not isinstance(lists, list) or len(lists) != count:
        wanted = counted(count, "list")
        raise MalformedAnswerError(f'expected "result" with {wanted}; is this a /retrieve server?')
    errors = answer.get("errors") or [None] * count
    if not isinstance(errors, list) or len(errors) != count:
        entries = agreeing(count, "entry", "entries")
        raise MalformedAnswerError(f'expected "errors" with {entries}')
    return [
        SearchResult(error=excerpt(error) if isinstance(error, str) else "unnamed error")
        if error
        else read_hits(records, k, max_chars)
        for records, error in zip(lists, errors, strict=True)
    ]


def excerpt(text: bytes | str) -> str:
    """The beginning of a foreign text as one line that is safe on a terminal."""
    if isinstance(text, bytes):
        text = text[: 4 * _EXCERPT].decode("utf-8", "replace")
    line = " ".join(without_secrets(text[: 4 * _EXCERPT]).split())[:_EXCERPT]
    return "".join(letter if letter.isprintable() else "?" for letter in line)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        [(name, _)] = Counter(name for name, _ in pairs).most_common(1)
        raise _DuplicateKeyError(repr(excerpt(name)))
    return found


def read_hits(records: Any, k: int, max_chars: int) -> SearchResult:
    """At most `k` hits of one query; an error if one of them is none, or longer than `max_chars`
    characters.
    """
    try:
        return SearchResult(_hits(records, k, max_chars))
    except _UnreadableHitError as problem:
        return SearchResult(error=f"cannot read its hits ({problem})")


def _hits(records: Any, k: int, max_chars: int) -> tuple[Hit, ...]:
    if not isinstance(records, list):
        raise _UnreadableHitError(f"expected a list, got {_kind(records)}")
    if len(records) > max(k, MAX_HITS):
        raise _UnreadableHitError(f"{len(records)} hits for topk = {k}")
    return tuple(_hit(record, max_chars) for record in records[:k])


def _hit(record: Any, max_chars: int) -> Hit:
    document = record.get("document", record) if isinstance(record, dict) else record
    if not isinstance(document, dict):
        raise _UnreadableHitError(f"expected a document, got {_kind(document)}")
    if "contents" in document:
        contents = _text(document, "contents")
    else:
        contents = f'"{_text(document, "title")}"\n{_text(document, "text")}'
    if len(contents) > max_chars:
        raise _UnreadableHitError(
            f"a passage of {len(contents)} characters, more than retriever.max_passage_chars = "
            f"{max_chars}"
        )
    return Hit(_id(document.get("id")), contents, _score(record.get("score", 0.0)))


def _text(document: dict[str, Any], name: str) -> str:
    value = document.get(name)
    if not isinstance(value, str):
        raise _UnreadableHitError(f"{name}: expected text, got {_kind(value)}")
    return _encodable(value, name)


def _id(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise _UnreadableHitError(f"id: expected text or a number, got {_kind(value)}")
    text = str(value)
    if len(text) > MAX_ID:
        raise _UnreadableHitError(f"id: {len(text)} characters, more than {MAX_ID}")
    return _encodable(text, "id")


def _encodable(text: str, name: str) -> str:
    """`text`, which no tokenizer or file takes with half of a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _UnreadableHitError(f"{name}: half of a surrogate pair") from None
    return text


def _score(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _UnreadableHitError(f"score: expected a number, got {_kind(value)}")
    try:
        score = float(value)
    except OverflowError:
        score = math.inf
    if not math.isfinite(score):
        raise _UnreadableHitError("score: not a finite number")
    return score


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value"}
    return "null" if value is None else names.get(type(value), "a number")


def with_source(results: Sequence[SearchResult], source: str) -> list[SearchResult]:
    """The results, with `source` named in their errors."""
    return [
        result if result.error is None else SearchResult(error=f"{source}: {result.error}")
        for result in results
    ]
