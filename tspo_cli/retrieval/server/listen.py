"""Serving a web application on a socket until a signal ends it."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from tspo_cli.console import warn
from tspo_cli.errors import MissingResourceError

_SWITCH_SECONDS = 0.001
"""How long the searching thread may hold the interpreter lock while the event loop waits. Python's
default is 5 ms.
"""


def listen(host: str, port: int) -> socket.socket:
    """A bound socket; port 0 takes a free one.

    Raises:
        MissingResourceError: the port is in use or not allowed, or there is no such address.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except UnicodeError:
        raise MissingResourceError(
            f"cannot listen on {host}: no host can have this name; choose another --host"
        ) from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise MissingResourceError(
            f"cannot listen on {host}:{port}: {reason.lower()}; choose another --port"
        ) from None
    return bound


def is_loopback(bound: socket.socket) -> bool:
    """Whether only this machine can reach the socket."""
    return ipaddress.ip_address(bound.getsockname()[0]).is_loopback


def server_config(app: FastAPI) -> uvicorn.Config:
    """Configure uvicorn: few log messages, no trusted proxy, thousands of connections."""
    return uvicorn.Config(
        app,
        http=GuardedProtocol,
        ws="none",  # an offer of a WebSocket is one of any other protocol
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        backlog=4096,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=10,
    )


def run_server(app: FastAPI, bound: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until SIGINT, SIGTERM, SIGHUP or SIGUSR1, and finish running requests. `ready` is
    called once the index is open.

    Raises:
        The error of an index that could not be opened; the server has then stopped.
    """
    _raise_file_limit()
    sys.setswitchinterval(_SWITCH_SECONDS)
    server = _Server(server_config(app), app, ready)
    with _ended_by(signal.SIGHUP, server), _ended_by(signal.SIGUSR1, server):
        server.run(sockets=[bound])
    if server.failure is not None:
        raise server.failure


@contextmanager
def _ended_by(number: signal.Signals, server: uvicorn.Server) -> Iterator[None]:
    """Let a signal end the server as uvicorn lets SIGTERM, unless it is ignored (nohup)."""
    before = signal.getsignal(number)
    if before is signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
        yield
        return
    came = False

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal came
        came = True
        server.handle_exit(number, frame)

    signal.signal(number, end)
    try:
        yield
    finally:
        signal.signal(number, before)
    if came:
        signal.raise_signal(number)


_REQUEST_LINE = 256
"""Bytes of a head beside its URL and fields: method, version, ends of lines."""


def _refusal(status: bytes, detail: bytes) -> bytes:
    """An answer after which the connection is closed."""
    body = b'{"detail": "%s"}' % detail
    return (
        b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nConnection: close\r\n"
        b"Content-Length: %d\r\n\r\n%s" % (status, len(body), body)
    )


_HEAD_TOO_LARGE = _refusal(
    b"431 Request Header Fields Too Large",
    b"head: expected at most 65536 bytes of URL and header fields",
)
_NO_UPGRADE = _refusal(
    b"400 Bad Request",
    b"Upgrade: this server speaks HTTP/1.1 alone; send a body without this field",
)


class GuardedProtocol(HttpToolsProtocol):
    """uvicorn's fast protocol with limits on the time and size of a request's head: the URL and the
    lines of the header fields. What comes behind a body (trailers) or between its chunks is limited
    to the size of a head too, and left out.
    """

    head_seconds = 20.0
    head_bytes = 64 << 10

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._in_head, self._unfinished = True, 0
        self._head_size, self._refused = 0, False
        self._around_body, self._got_body = 0, False
        self._farewell: Callable[[], None] | None = None
        self._head_timer: asyncio.TimerHandle | None = self.loop.call_later(
            self.head_seconds, transport.abort
        )

    def data_received(self, data: bytes) -> None:
        if self._farewell is not None:
            return
        was_in_head = self._in_head
        self._got_body = False
        super().data_received(data)
        if self._farewell is not None:
            return
        if not self._in_head:
            self._stop_timer()
            self._unfinished = 0
            if not was_in_head and not self._got_body:
                self._around_body += len(data)
                if self._around_body > self.head_bytes:
                    self.transport.abort()
            return
        # Most heads arrive in one piece and are complete before this line. A piece that began with
        # the end of a body is not all head.
        self._unfinished = self._unfinished + len(data) if was_in_head else 0
        if self._unfinished > self.head_bytes + _REQUEST_LINE:
            self.transport.abort()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_seconds, self.transport.abort)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Answer a client that closes its sending side after the request, such as `nc -N`."""
        return self._farewell is not None or self._ends_after_answers(self.transport.close)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, after the requests before it."""
        answer = partial(super().send_400_response, msg)
        if not self._ends_after_answers(answer):
            answer()

    def on_response_complete(self) -> None:
        is_last = not self.pipeline
        super().on_response_complete()
        if is_last and self._farewell is not None and not self.transport.is_closing():
            self._farewell()

    def _ends_after_answers(self, farewell: Callable[[], None]) -> bool:
        """Read nothing more, and call `farewell` once the whole requests before this moment are
        answered. False if none waits for an answer.
        """
        is_whole = self.cycle is not None and not self.cycle.more_body
        if self.pipeline and not is_whole:
            self.pipeline.popleft()
        elif not is_whole or self.cycle.response_complete:
            return False
        self._farewell = farewell
        self._stop_timer()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self._in_head, self._head_size, self._around_body = True, 0, 0
        self._has_body = False
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._head_size += len(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:
            self._head_size += len(name) + len(value) + len(": \r\n")
            self._has_body |= name.lower() in (b"content-length", b"transfer-encoding")
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        if self._head_size > self.head_bytes:
            self._refuse(_HEAD_TOO_LARGE)
        elif self.parser.should_upgrade() and self._has_body:  # the parser reads no body then
            self._refuse(_NO_UPGRADE)
        if not self._refused:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._got_body = True
        if not self._refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        if not self._refused:
            super().on_message_complete()

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing: an offer without a body is passed over, as HTTP says."""

    def _refuse(self, answer: bytes) -> None:
        if not self._refused:
            self._refused = True
            if not self._ends_after_answers(partial(self._write_last, answer)):
                self._write_last(answer)

    def _write_last(self, answer: bytes) -> None:
        self.transport.write(answer)
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, app: FastAPI, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._app, self._ready = app, ready
        self._is_full = False
        self.failure: BaseException | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        asyncio.get_running_loop().set_exception_handler(self._tell)
        await super().startup(sockets)
        if self.started:
            self._app.state.opened.add_done_callback(self._opened)

    def _tell(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Say once that no file is left for a connection, which asyncio says with a traceback up to
        thousands of times a second. New clients wait until one is free. If the server ends
        meanwhile, asyncio still listens again, on a socket that is closed.
        """
        error = context.get("exception")
        if self._is_full and self.should_exit and isinstance(error, ValueError):
            return
        if not (isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)):
            loop.default_exception_handler(context)
        elif not self._is_full:
            self._is_full = True
            reason = (error.strerror or "").lower()
            warn(f"new connections wait for others to end: {reason}; raise the limit (ulimit -n)")

    def _opened(self, opened: asyncio.Future[None]) -> None:
        self.failure = opened.exception()
        if self.failure is None:
            self._ready()
        else:
            self.should_exit = True


def _raise_file_limit() -> None:
    """Raise the soft limit of open files, mostly 1,024: every connection is one."""
    if sys.platform != "win32":
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = 65_536 if hard == resource.RLIM_INFINITY else min(hard, 65_536)
        if soft != resource.RLIM_INFINITY and soft < limit:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
