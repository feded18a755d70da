"""Keeps everyone without the token from a vLLM server. vLLM imports this module in its own process.

vLLM's own `--api-key` leaves the routes open that control a server: /collective_rpc, /pause,
/update_weight_version and others. Whoever reaches one of them can replace the weights.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from tspo_cli.text.access_token import ENGINE_TOKEN, authorises, read_token

OPEN_PATH = "/health"
"""Answers without a token, for supervisors: whether the server is up."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Guard:
    """ASGI middleware: a request without the token of TSPO_ENGINE_TOKEN gets 401, whatever its
    path. vLLM's option `--middleware` names it.

    Raises:
        RuntimeError: there is no token.
        InvalidInputError: see `read_token`.
    """

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self.app, self.token = app, read_token(ENGINE_TOKEN)
        if not self.token:
            raise RuntimeError(f"{ENGINE_TOKEN} is not set")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand the request on, or refuse it."""
        if scope["type"] == "lifespan" or self._is_allowed(scope):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await _refuse(send)

    def _is_allowed(self, scope: Scope) -> bool:
        if (scope["type"], scope.get("method"), scope["path"]) == ("http", "GET", OPEN_PATH):
            return True
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(given) == 1 and authorises(given[0].decode("latin-1"), self.token)


async def _refuse(send: Send) -> None:
    body = json.dumps({"detail": "expected Authorization: Bearer TOKEN"}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"www-authenticate", b"Bearer"),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": 401, "headers": headers})
    await send({"type": "http.response.body", "body": body})
