"""Shares out requests among vLLM servers, and goes on without those that are lost.

A request goes to the server with the fewest requests of this process. Later turns of a session stay
at its server, which has their prefix in its cache, unless that one has far more to do than another.
A server that is lost gets no requests until it responds and has the current weights again; what it
had not finished is asked of the others. Everything here runs in the thread of one event loop.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeVar

import httpx

from tspo_cli.errors import InvalidInputError, RemoteServiceError
from tspo_cli.retrieval.remote.read_answer import excerpt
from tspo_cli.rollout.engines.vllm_engine.vllm_control import (
    RETRY_SECONDS,
    SERVER_ERRORS,
    TRIES,
    ServerControl,
    version_of,
)

T = TypeVar("T")

MOVES_ABOVE = 8
"""Requests by which a session's server may exceed twice those of the least loaded one: what moves
has its whole prefix computed again.
"""


class OtherWeightsError(Exception):
    """A server sampled with other weights than the current ones: it was restarted."""


class ServerGroup:
    """The servers of `controls`, by URL in the order in which this process prefers them.

    Args:
        controls: health and weights of each server.
        patience: seconds to wait for a server when none is left.
        log: shows a message to the user.
    """

    def __init__(
        self,
        controls: Mapping[str, ServerControl],
        *,
        patience: float,
        log: Callable[[str], None],
    ) -> None:
        self.controls, self.patience, self.log = controls, patience, log
        self.running: Counter[str] = Counter()
        self.server_of: dict[int, str] = {}
        self.returning: dict[str, asyncio.Task[None]] = {}
        """The lost servers, and what brings them back."""

    async def ask(
        self, session: int, label: str, send: Callable[[ServerControl], Awaitable[T]]
    ) -> T:
        """The result of `send` at one of the servers, with the weights of `label`. A request that
        is lost with its server is sent again.

        Raises:
            RemoteServiceError: no server is left, or a server rejects the request.
            InvalidInputError: a server refuses the token.
        """
        problem = ""
        for _ in range(TRIES * len(self.controls)):
            url = await self._server_for(session)
            self.running[url] += 1
            try:
                return await send(self.controls[url])
            except (*SERVER_ERRORS, OtherWeightsError) as error:
                problem = f" ({error})" if isinstance(error, httpx.RemoteProtocolError) else ""
                await self._has_failed(url, label, error)
            finally:
                self.running[url] -= 1
        raise RemoteServiceError(
            f"{url}: no response with the current weights in {TRIES} tries{problem}; see its log"
        )

    def forget(self, session: int) -> None:
        """The session's next request may go anywhere."""
        self.server_of.pop(session, None)

    def choose(self, session: int) -> str | None:
        """The server for the next request of a session; None if all are lost."""
        available = [url for url in self.controls if url not in self.returning]
        if not available:
            return None
        least = min(available, key=lambda url: self.running[url])
        known = self.server_of.get(session)
        limit = 2 * self.running[least] + MOVES_ABOVE
        if known not in available or self.running[known] > limit:
            self.server_of[session] = least
        return self.server_of[session]

    async def pause_returns(self) -> None:
        """Give no weights to lost servers until `expect`."""
        for task in self.returning.values():
            task.cancel()
        await asyncio.gather(*self.returning.values(), return_exceptions=True)

    async def hand_over(self, urls: Iterable[str], label: str) -> None:
        """Make those of `urls` that are not lost load the weights of `label`.

        Raises:
            RemoteServiceError: a server cannot load them.
        """
        there = [url for url in urls if url not in self.returning]
        await asyncio.gather(*(self._give(url, label) for url in there))

    async def expect(self, label: str) -> None:
        """Lost servers may come back with the weights of `label`."""
        for url, task in list(self.returning.items()):
            if task.done():
                self._bring_back(url, label)

    async def _give(self, url: str, label: str) -> None:
        try:
            await self.controls[url].hand_over(label)
        except httpx.TransportError as error:
            self.leave_out(url, label, f" ({type(error).__name__}) at a hand-over")

    async def _server_for(self, session: int) -> str:
        until = time.monotonic() + self.patience
        while (url := self.choose(session)) is None:
            pending = [task for task in self.returning.values() if not task.done()]
            if not pending:
                self.returning[next(iter(self.returning))].result()  # raises what keeps it away
            seconds = until - time.monotonic()
            if seconds <= 0:
                raise RemoteServiceError(self._nobody())
            await asyncio.wait(pending, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return url

    def _nobody(self) -> str:
        lost = ", ".join(self.returning)
        return (
            f"{lost}: no vLLM server responds, waited {self.patience:g} s (vllm.patience); start "
            "one with `tspo engine MODEL`, then use --resume"
        )

    async def _has_failed(self, url: str, label: str, error: Exception) -> None:
        """Leave the server out, unless it is there and has the weights of `label`."""
        server = self.controls[url]
        server.refuse_token(error)
        has_status = isinstance(error, httpx.HTTPStatusError)
        if isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500:
            raise RemoteServiceError(
                f"{url}: rejects a request: {excerpt(error.response.content)}"
            ) from error
        if url in self.returning:
            return
        if await server.is_alive() and await server.label() == label:
            if has_status:
                await asyncio.sleep(RETRY_SECONDS)  # it may be about to exit
            return
        if url not in self.returning:
            other = isinstance(error, OtherWeightsError)
            self.leave_out(url, label, "" if other else f" ({type(error).__name__})")

    def leave_out(self, url: str, label: str, reason: str) -> None:
        """Give the server no requests until it is back with the weights of `label`."""
        others = len(self.controls) - len(self.returning) - 1
        servers = f"the other {others} servers" if others > 1 else "the other server"
        what = f"its requests go to {servers}" if others else "waiting for it"
        self.log(f"engine {url} is lost{reason}; {what}")
        self._bring_back(url, label)

    def _bring_back(self, url: str, label: str) -> None:
        task = self.returning[url] = asyncio.ensure_future(self._return(url, label))
        # `_return` has said its error; nobody else may ask for it.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _return(self, url: str, label: str) -> None:
        """Wait until the server responds, give it the weights of `label` if it has others, and use
        it again.
        """
        server, started = self.controls[url], time.monotonic()
        try:
            for _ in range(TRIES):
                await server.until_alive()
                try:
                    if await server.label() != label:
                        await server.hand_over(label)
                except SERVER_ERRORS:
                    continue
                break
            else:
                raise RemoteServiceError(
                    f"{url}: was lost {TRIES} times while it loaded weights; see its log"
                )
        except (RemoteServiceError, InvalidInputError) as error:
            self.log(f"engine {url} is not used: {error}")
            raise
        del self.returning[url]
        seconds, step = time.monotonic() - started, version_of(label)
        self.log(f"engine {url} is back after {seconds:.0f} s, with weights of step {step}")
