"""An HTTP transport whose requests end in time whatever the server does.

httpx limits each read of a socket. A server that sends a byte now and then, in its header too,
would keep a caller for as long as it likes.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterable
from functools import cache
from typing import Any

import httpcore
import httpx

_thread = threading.local()


def end_requests_at(end: float) -> None:
    """Let the requests of this thread end at `end` (of the monotonic clock) with a timeout."""
    _thread.end = end


def timed_transport(concurrency: int) -> httpx.HTTPTransport:
    """A transport for up to `concurrency` connections that heeds `end_requests_at`."""
    context = _ssl_context()
    transport = httpx.HTTPTransport(verify=context, trust_env=False)
    # httpx has no argument for the network below its pool of connections.
    transport._pool = httpcore.ConnectionPool(
        ssl_context=context,
        max_connections=concurrency,
        max_keepalive_connections=concurrency,
        # Shorter than the five seconds after which uvicorn servers drop an idle connection.
        keepalive_expiry=3.0,
        network_backend=_TimedBackend(),
    )
    return transport


def heed_deadlines(client: httpx.Client) -> httpx.Client:
    """Let the requests of `client`, also those through its proxies, heed `end_requests_at`."""
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx.HTTPTransport):
            transport._pool._network_backend = _TimedBackend()
    return client


@cache
def _ssl_context() -> ssl.SSLContext:
    """The certificates that are trusted. Reading them takes a tenth of a second."""
    return httpx.create_ssl_context(trust_env=False)


def _remaining(
    timeout: float | None, passed: type[httpcore.TimeoutException] = httpcore.ReadTimeout
) -> float | None:
    end: float | None = getattr(_thread, "end", None)
    if end is None:
        return timeout
    left = end - time.monotonic()
    if left <= 0:
        raise passed("no time left")
    return left if timeout is None else min(timeout, left)


class _TimedStream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _remaining(timeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _remaining(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        timeout = _remaining(timeout, httpcore.ConnectTimeout)
        return _TimedStream(self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _TimedBackend(httpcore.SyncBackend):
    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        timeout = _remaining(timeout, httpcore.ConnectTimeout)
        return _TimedStream(super().connect_tcp(host, port, timeout, local_address, socket_options))
