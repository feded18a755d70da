"""An HTTP transport whose requests end in time whatever the server does, and get no answer to
another one.

httpx limits each read of a socket. A server that sends a byte now and then, in its header too,
would keep a caller for as long as it likes.
"""

from __future__ import annotations

import os
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import httpcore
import httpx

from tspo_cli.errors import InvalidInputError, MissingResourceError

_thread = threading.local()
_ONE_REQUEST = (httpcore.HTTP11Connection, httpcore.AsyncHTTP11Connection)


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
    _drop_unasked(transport._pool)
    return transport


@contextmanager
def usable_proxies() -> Iterator[None]:
    """For the making of a client that takes the proxies of the environment.

    Raises:
        InvalidInputError: a variable names none that httpx can use.
        MissingResourceError: a SOCKS proxy, without the package that speaks to it.
    """
    known = ("http_proxy", "https_proxy", "all_proxy")
    names = ", ".join(sorted(name for name in os.environ if name.lower() in known))
    try:
        yield
    except ImportError as error:
        if "socksio" not in str(error):
            raise
        raise MissingResourceError(
            f"{names}: a SOCKS proxy needs the package socksio; install it with pip install "
            "'httpx[socks]', or unset the variable"
        ) from None
    except (ValueError, httpx.InvalidURL):  # whose text may quote a password
        if not names:
            raise
        raise InvalidInputError(
            f"{names}: expected proxies like http://127.0.0.1:3128; set them anew, or unset them"
        ) from None


def heed_deadlines(client: httpx.Client) -> httpx.Client:
    """Let the requests of `client`, also those through its proxies, heed `end_requests_at`."""
    client.event_hooks["response"].append(drop_redirect)
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx.HTTPTransport):
            transport._pool._network_backend = _TimedBackend()
            _drop_unasked(transport._pool)
    return client


def keep_answers_apart(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """Let no request of `client` get what came unasked after another answer, or its cookies."""
    client.cookies = no_cookies()
    client.event_hooks["response"].append(_drop_redirect_soon)
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx.AsyncHTTPTransport):
            _drop_unasked(transport._pool)
    return client


def drop_redirect(response: httpx.Response) -> None:
    """A hook of a client that follows no redirect: httpx prepares the next request all the same,
    and fails of some addresses with an error that is none of HTTP.
    """
    response.headers.pop("location", None)


async def _drop_redirect_soon(response: httpx.Response) -> None:
    drop_redirect(response)


def _drop_unasked(pool: Any) -> None:
    """Let a pool of httpcore use no connection again on which more came than a response: it would
    be taken for the response to the next request.
    """
    create = pool.create_connection

    def create_connection(origin: httpcore.Origin) -> Any:
        connection = create(origin)
        has_expired = connection.has_expired
        connection.has_expired = lambda: has_expired() or _has_unasked(connection)
        return connection

    pool.create_connection = create_connection


def _has_unasked(connection: Any) -> bool:
    """Whether an idle connection has received something. What it has not read yet, httpcore sees
    itself.
    """
    if not connection.is_idle():
        return False
    while connection is not None and not isinstance(connection, _ONE_REQUEST):
        connection = getattr(connection, "_connection", None)  # that below a proxy's
    return connection is not None and bool(connection._h11_state.trailing_data[0])


def no_cookies() -> CookieJar:
    """A jar that takes none: what one answer says must not change the next request, and servers
    on other ports of the same host would get them too.
    """
    return CookieJar(DefaultCookiePolicy(allowed_domains=()))


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
        try:
            stream = super().connect_tcp(host, port, timeout, local_address, socket_options)
        except UnicodeError:  # of a proxy; the URLs of servers are checked
            raise httpcore.ConnectError(f"no host can have the name {host}") from None
        return _TimedStream(stream)
