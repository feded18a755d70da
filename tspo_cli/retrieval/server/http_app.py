"""A retriever as a web application.

POST /retrieve   see wire_format.py; 401 no token; 408, 413, 415, 422 bad request; 429 overloaded
GET  /healthz    the process is up; once the index is open also its description
GET  /readyz     200 when queries are answered, 503 while the index is opening
GET  /metrics    for Prometheus
GET  /docs, /openapi.json    the interface

Where a token is set, only /readyz and the status at /healthz are without it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from tspo_cli.errors import InvalidInputError
from tspo_cli.retrieval.server.batcher import Batcher, Overloaded
from tspo_cli.retrieval.server.server_metrics import CONTENT_TYPE, ServerMetrics
from tspo_cli.retrieval.server.wire_format import (
    EncodedResult,
    RetrieveRequest,
    SearchRequest,
    parse_request,
    response_body,
)
from tspo_cli.retrieval.types import IDENTITY_HEADER, MAX_QUERY_CHARACTERS, Retriever, query_problem
from tspo_cli.text.access_token import authorises
from tspo_cli.text.whole_numbers import whole_number

_OPEN = {"/healthz", "/readyz"}
"""Paths that answer without a token, for supervisors: whether the server is up and ready."""
_DRAIN_BODIES = 8
"""A body beyond the limit is read up to this many times the limit, so that its sender gets the
response.
"""
_LENGTH_DIGITS = 20
"""Digits of the longest declared length that the HTTP parser lets pass."""
_DRAIN_SECONDS = 0.5
"""How long that reading waits for more of a body which its sender may not send."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSettings:
    """Limits of a service. Sizes in bytes, times in seconds, query length in characters."""

    default_k: int = 3
    max_k: int = 100
    max_queries: int = 1024
    max_query_chars: int = MAX_QUERY_CHARACTERS
    max_body: int = 8 << 20
    body_timeout: float = 15.0
    max_batch: int = 256
    max_waiting: int = 8192
    max_wait: float = 30.0
    cache_bytes: int = 256 << 20
    token: str = ""
    """Token that clients must send as `Authorization: Bearer ...`. Empty: no authorisation."""

    def __post_init__(self) -> None:
        if self.max_waiting < self.max_queries:
            raise InvalidInputError(
                f"max_waiting: expected at least max_queries ({self.max_queries}), got "
                f"{self.max_waiting}: "
                "a request of that size could never be answered"
            )


class _Refusal(Exception):
    """A response other than 200, with one sentence."""

    def __init__(self, status: int, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status, self.detail, self.headers = status, detail, headers


class RetrieverApp(FastAPI):
    """Handles POST /retrieve before FastAPI's middleware, which would double the cost of HTTP (from
    0.035 to 0.07 ms).
    """

    def __init__(self, service: _Service) -> None:
        super().__init__(title="tspo retriever", lifespan=service.lifespan)
        self._service = service
        self.get("/healthz", response_model=None)(service.healthz)
        self.get("/readyz", response_model=None)(service.readyz)
        self.add_route("/metrics", service.metrics_text, methods=["GET"], include_in_schema=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await super().__call__(scope, receive, send)
        elif scope["path"] != "/retrieve":
            refusal = self._service.locked(Request(scope))
            await (refusal or super().__call__)(scope, receive, send)
        elif scope["method"] != "POST":
            refusal = JSONResponse({"detail": "expected POST"}, 405, {"Allow": "POST"})
            await refusal(scope, receive, send)
        else:
            response = await self._service.retrieve(Request(scope, receive))
            await response(scope, receive, send)

    def openapi(self) -> dict[str, Any]:
        schema = super().openapi()
        schema["paths"].setdefault("/retrieve", _RETRIEVE_SCHEMA)
        return schema


def create_app(
    open_retriever: Callable[[], Retriever], settings: ServiceSettings | None = None
) -> RetrieverApp:
    """The web application around the index that `open_retriever` opens.

    It answers /healthz at once, while the index is opening. `app.state.opened` is a future that is
    done when the index is open; it has the error if opening failed.
    """
    return RetrieverApp(_Service(open_retriever, settings or ServiceSettings()))


class _Service:
    def __init__(self, open_retriever: Callable[[], Retriever], settings: ServiceSettings) -> None:
        self._settings = settings
        self._metrics = ServerMetrics()
        self._served = ""
        self._batcher = Batcher(
            open_retriever,
            self._metrics,
            max_batch=settings.max_batch,
            max_waiting=settings.max_waiting,
            max_wait=settings.max_wait,
            cache_bytes=settings.cache_bytes,
        )

    @asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        app.state.opened = self._batcher.start()
        yield
        await asyncio.to_thread(self._batcher.close)

    async def retrieve(self, request: Request) -> Response:
        start = time.perf_counter()
        status, errors = 200, 0
        try:
            results, scores = await self._search(request)
            errors = sum(result.error is not None for result in results)
            content = response_body(results, scores)
            return Response(content, 200, self._identity(), media_type="application/json")
        except _Refusal as refusal:
            status = refusal.status
            return JSONResponse({"detail": refusal.detail}, status, refusal.headers)
        finally:
            self._metrics.request(status, time.perf_counter() - start, errors)

    def _identity(self) -> dict[str, str]:
        """The header that lets a client notice another index behind its URL."""
        if not self._served and self._batcher.info is not None:
            self._served = self._batcher.info.identity
        return {IDENTITY_HEADER: self._served} if self._served else {}

    async def _search(self, request: Request) -> tuple[list[EncodedResult], bool]:
        self._authorise(request)
        raw = await self._body(request)
        if {*_codings(request, "content-encoding")} - {"identity"}:
            raise _Refusal(415, "Content-Encoding: expected a body that is not packed")
        if _codings(request, "transfer-encoding") not in ([], ["chunked"]):
            raise _Refusal(415, "Transfer-Encoding: expected chunked alone")
        if self._batcher.info is None:
            raise _Refusal(503, "the index is still being opened", {"Retry-After": "1"})
        search = self._parsed(raw)
        problems = [
            query_problem(query, self._settings.max_query_chars) for query in search.queries
        ]
        valid = [
            query
            for query, problem in zip(search.queries, problems, strict=True)
            if problem is None
        ]
        try:
            found = iter(await self._batcher.search(valid, search.k))
        except Overloaded as error:
            raise _Refusal(429, str(error), {"Retry-After": str(error.retry_after)}) from None
        return [
            EncodedResult(error=problem) if problem else next(found) for problem in problems
        ], search.scores

    def _authorise(self, request: Request) -> None:
        if not self._settings.token:
            return
        if not authorises(request.headers.get("authorization", ""), self._settings.token):
            raise _Refusal(
                401, "expected Authorization: Bearer TOKEN", {"WWW-Authenticate": "Bearer"}
            )

    def locked(self, request: Request) -> Response | None:
        """The refusal of a GET without the token, or None."""
        if request.scope["path"] in _OPEN:  # a URL has what the client calls the host, too
            return None
        try:
            self._authorise(request)
        except _Refusal as refusal:
            return JSONResponse({"detail": refusal.detail}, refusal.status, refusal.headers)
        return None

    async def _body(self, request: Request) -> bytes:
        limit = self._settings.max_body
        try:
            async with asyncio.timeout(self._settings.body_timeout):
                body = await _read_body(request, limit)
        except TimeoutError:
            raise _Refusal(
                408, "the body did not arrive in time", {"Connection": "close"}
            ) from None
        except ClientDisconnect:
            raise _Refusal(400, "the client disconnected") from None
        if body is None:
            raise _Refusal(413, f"body: expected at most {limit} bytes", {"Connection": "close"})
        return body

    def _parsed(self, raw: bytes) -> SearchRequest:
        limits = self._settings
        try:
            return parse_request(
                raw,
                default_k=limits.default_k,
                max_k=limits.max_k,
                max_queries=limits.max_queries,
                max_query_chars=limits.max_query_chars,
            )
        except InvalidInputError as error:
            raise _Refusal(422, str(error)) from None

    async def metrics_text(self, request: Request) -> Response:
        return Response(self._metrics.text(), media_type=CONTENT_TYPE)

    async def healthz(self, request: Request) -> dict[str, Any]:
        info = self._batcher.info
        if info is None:
            return {"status": "opening"}
        try:
            self._authorise(request)
        except _Refusal:
            return {"status": "ok"}
        return {
            "status": "ok",
            "kind": info.kind,
            "passages": info.passages,
            "k": self._settings.default_k,
            "index": info.index_digest,
            "encoder": info.encoder,
            "parameters": info.parameters,
            "search": info.search,
            "reranker": info.reranker_digest,
        }

    async def readyz(self) -> JSONResponse:
        ready = self._batcher.info is not None
        return JSONResponse(
            {"ready": ready}, 200 if ready else 503, None if ready else {"Retry-After": "1"}
        )


def _codings(request: Request, field: str) -> list[str]:
    """What a field lists, in however many lines and in any case."""
    listed = ",".join(request.headers.getlist(field)).lower().split(",")
    return [coding for coding in map(str.strip, listed) if coding]


async def _read_body(request: Request, limit: int) -> bytes | None:
    """The body, or None if it is longer than `limit` bytes."""
    chunks: list[bytes] = []
    size = 0
    length = request.headers.get("content-length", "0")
    declared = whole_number(length, _LENGTH_DIGITS) or 0
    if declared > limit:
        # A sender that expects 100 Continue has not begun.
        if declared <= _DRAIN_BODIES * limit and "expect" not in request.headers:
            await _drain(request)
        return None
    async for chunk in request.stream():
        size += len(chunk)
        if size <= limit:
            chunks.append(chunk)
        elif size > _DRAIN_BODIES * limit:
            return None
    return b"".join(chunks) if size <= limit else None


async def _drain(request: Request) -> None:
    """Read a body of a declared length as long as its parts arrive."""
    parts = request.stream()
    with suppress(TimeoutError):
        while True:
            async with asyncio.timeout(_DRAIN_SECONDS):
                if await anext(parts, None) is None:
                    return


_DETAIL = {
    "content": {
        "application/json": {
            "schema": {"type": "object", "properties": {"detail": {"type": "string"}}}
        },
    }
}
_RETRIEVE_SCHEMA: dict[str, Any] = {
    "post": {
        "summary": "Search for passages.",
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": RetrieveRequest.model_json_schema()}},
        },
        "responses": {
            "200": {
                "description": "Hits per query; documents alone unless return_scores is true.",
                "content": {
                    "application/json": {
                        "schema": {
                            "type": "object",
                            "required": ["result"],
                            "properties": {
                                "result": {
                                    "type": "array",
                                    "items": {"type": "array", "items": {"type": "object"}},
                                },
                                "errors": {"type": "array", "items": {"type": ["string", "null"]}},
                            },
                        }
                    }
                },
            },
            **{
                status: {"description": text, **_DETAIL}
                for status, text in {
                    "401": "The token is missing or wrong.",
                    "408": "The body did not arrive in time.",
                    "413": "The body is too large.",
                    "415": "The body is packed.",
                    "422": "Malformed, or beyond a limit.",
                    "429": "Overloaded; see Retry-After.",
                    "503": "The index is still being opened; see Retry-After.",
                }.items()
            },
        },
    }
}
