"""A retriever over HTTP, in the dialects that search agents already speak.

POST /retrieve   {"queries": [str], "topk": int or null, "return_scores": bool}    (or "query": str for one)
    scores on    {"result": [[{"document": {"id", "contents"}, "score": float}, ...] per query]}
    scores off   {"result": [[{"id", "contents"}, ...] per query]}
    A query that failed has no hits; `"errors": [str or null per query]` is then there too.
GET /healthz     {"status": "ok", "kind", "passages", "k"}
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import uvicorn
from anyio import CapacityLimiter
from anyio.to_thread import run_sync
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field, ValidationError

from tspo_cli.errors import MissingResourceError
from tspo_cli.retrieval.types import Hit, Retriever, SearchResult

log = logging.getLogger(__name__)


class RetrieveRequest(BaseModel):
    """The body of POST /retrieve. Unknown fields are ignored, as other servers do."""

    queries: list[str] | None = None
    query: str | None = None
    topk: Annotated[int, Field(ge=1)] | None = None
    return_scores: bool = False


def create_app(retriever: Retriever, *, default_k: int = 3, max_k: int = 100, max_queries: int = 1024) -> FastAPI:
    """The web application around `retriever`.

    A body that is malformed, or asks for more than `max_k` hits or `max_queries` queries, is answered with status
    422 and `{"detail": one sentence}`. Searches run one after the other: a request never waits for more than those
    before it, and an encoder is never entered twice.
    """
    app = FastAPI(title="tspo retriever")
    one_at_a_time = CapacityLimiter(1)

    @app.post("/retrieve")
    async def retrieve(request: Request) -> JSONResponse:
        body = _body(await request.body())
        queries = _queries(body, max_queries)
        k = body.topk or default_k
        if k > max_k:
            raise HTTPException(422, f"topk: expected at most {max_k}, got {k}")
        results = await run_sync(search_each, retriever, queries, k, limiter=one_at_a_time)
        return JSONResponse(_answer(results, body.return_scores))

    @app.get("/healthz")
    async def healthz() -> dict[str, Any]:
        manifest = getattr(retriever, "manifest", {})
        return {
            "status": "ok",
            "kind": manifest.get("kind"),
            "passages": manifest.get("passages"),
            "k": default_k,
        }

    return app


def search_each(retriever: Retriever, queries: Sequence[str], k: int) -> list[SearchResult]:
    """Search the batch; if it fails, search query by query, so that a bad query fails alone."""
    try:
        return retriever.search(queries, k)
    except Exception as error:
        if len(queries) == 1:
            log.exception("search failed")
            return [SearchResult(error=f"{type(error).__name__}: {error}")]
    return [result for query in queries for result in search_each(retriever, [query], k)]


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one.

    Raises:
        MissingResourceError: the port is in use, not allowed, or there is no such address.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        reason = error.strerror or str(error)
        raise MissingResourceError(f"cannot listen on {host}:{port}: {reason.lower()}; choose another --port") from None
    return bound


def run_server(app: FastAPI, bound: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until SIGINT or SIGTERM; requests under way are finished. `ready` is called once connections are taken."""
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_keep_alive=60, timeout_graceful_shutdown=10
    )
    _Server(config, ready).run(sockets=[bound])


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()


def _body(raw: bytes) -> RetrieveRequest:
    """The request, whatever its content type: `curl -d` and some agents do not say JSON."""
    try:
        return RetrieveRequest.model_validate_json(raw)
    except ValidationError as error:
        problems = [".".join(map(str, item["loc"])) + ": " + item["msg"] for item in error.errors()]
        raise HTTPException(422, "; ".join(problems).removeprefix(": ")) from None


def _queries(body: RetrieveRequest, limit: int) -> list[str]:
    if (body.queries is None) == (body.query is None):
        raise HTTPException(422, 'expected either "queries" (a list of strings) or "query" (one string)')
    queries = body.queries if body.queries is not None else [body.query or ""]
    if len(queries) > limit:
        raise HTTPException(422, f"queries: expected at most {limit} in one request, got {len(queries)}")
    return queries


def _answer(results: list[SearchResult], scores: bool) -> dict[str, Any]:
    answer: dict[str, Any] = {"result": [[_record(hit, scores) for hit in result.hits] for result in results]}
    if any(result.error for result in results):
        answer["errors"] = [result.error for result in results]
    return answer


def _record(hit: Hit, scores: bool) -> dict[str, Any]:
    document = {"id": hit.id, "contents": hit.contents}
    return {"document": document, "score": hit.score} if scores else document
