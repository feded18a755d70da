"""What vLLM servers answer: data from elsewhere, of which every part is checked.

What cannot be read is an httpx.RemoteProtocolError, as a connection that broke is: the request is
sent again, perhaps to another server.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from tspo_cli.console import counted
from tspo_cli.retrieval.remote.answer_body import MAX_ANSWER
from tspo_cli.retrieval.remote.read_answer import excerpt

UNPACKED = {"Accept-Encoding": "identity"}
"""The header of a request whose answer `read_whole` reads."""
LARGEST_LOGPROB = 1e-3
"""Log-probabilities are at most 0; this is for rounding."""
LEAST_LOGPROB = -3e38
"""What is below is infinite in float32."""


@dataclass(frozen=True, slots=True)
class Generated:
    """A sampled turn. `versions` are the labels of the weights of its spans of tokens."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: str | None
    stop_reason: int | str | None
    versions: tuple[str, ...]


async def read_whole(response: httpx.Response) -> httpx.Response:
    """A response of a stream with its body, which is not packed: a few bytes can hold terabytes.

    Raises:
        httpx.TransportError: it did not arrive, is packed or too large.
    """
    encoding = response.headers.get("content-encoding", "identity")
    if encoding != "identity":
        raise httpx.RemoteProtocolError(f"its answer has the encoding {excerpt(encoding)!r}")
    chunks, size = [], 0
    async for chunk in response.aiter_raw():
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_ANSWER:
            raise httpx.RemoteProtocolError(f"its answer has more than {MAX_ANSWER >> 20} MiB")
    return httpx.Response(response.status_code, content=b"".join(chunks), request=response.request)


def text_of(response: httpx.Response) -> str:
    """The text of a response, which is UTF-8 whatever its header says."""
    return response.content.decode("utf-8", "replace")


def json_of(response: httpx.Response) -> Any:
    """The JSON of a response."""
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError):
        raise _unreadable("JSON", text_of(response)[:200]) from None


def context_of(models: Any) -> int:
    """The most tokens of a session, of /v1/models."""
    match models:
        case {"data": [{"max_model_len": int(length)}, *_]}:
            return length
    raise _unreadable('"data" with "max_model_len"', models)


def label_in(info: Any) -> str:
    """The label of the server's weights, of /weight_info."""
    match info:
        case {"weight_version": str(label)}:
            return label
    raise _unreadable('"weight_version"', info)


def results_of(answer: Any) -> list[Any]:
    """What each worker returned, of /collective_rpc; an answer without a body has nothing."""
    match answer:
        case None:
            return []
        case {"results": [*results]}:
            return results
        case {**fields} if "results" not in fields:
            return []
    raise _unreadable('"results"', answer)


def number_in(result: Any) -> int:
    """A number that a worker returned, which the server may send as text; none is 0."""
    if result is None:
        return 0
    try:
        return int(str(result))
    except ValueError:
        raise _unreadable("a number", result) from None


def read_generated(answer: Any, most: int, vocabulary: int) -> Generated:
    """The sampled turn of /inference/v1/generate: at most `most` tokens of `vocabulary`, each with
    a log-probability.
    """
    match answer:
        case {
            "choices": [
                {
                    "token_ids": [*ids],
                    "logprobs": {"content": [*_] | None as content},
                    "finish_reason": str() | None as finish_reason,
                    "stop_reason": str() | int() | None as stop_reason,
                    "weight_versions": [*_] | None as spans,
                },
                *_,
            ]
        }:
            logprobs = [_field(token, "logprob") for token in content or ()]
            versions = [_field(span, "version") for span in spans or ()]
        case _:
            raise _unreadable("a sampled turn", answer)
    if len(ids) > most:
        raise _unreadable(f"at most {counted(most, 'token')}", len(ids))
    _require(ids, lambda one: type(one) is int and 0 <= one < vocabulary, "ids of tokens")
    _require(logprobs, _is_logprob, "log-probabilities")
    _require(versions, lambda one: isinstance(one, str), "labels of weights")
    return Generated(tuple(ids), tuple(logprobs), finish_reason, stop_reason, tuple(versions))


def _field(record: Any, name: str) -> Any:
    return record.get(name) if isinstance(record, dict) else None


def _is_logprob(value: Any) -> bool:
    return type(value) in (int, float) and LEAST_LOGPROB <= value <= LARGEST_LOGPROB


def _require(values: list[Any], fits: Callable[[Any], bool], what: str) -> None:
    for value in values:
        if not fits(value):
            raise _unreadable(what, value)


def _unreadable(expected: str, value: Any) -> httpx.RemoteProtocolError:
    return httpx.RemoteProtocolError(f"expected {expected}, got {excerpt(repr(value))}")
