"""vLLM servers behind URLs: requests travel as token ids, weights as safetensors files that both
sides see.

A server that dies is waited for; when it is back it gets the current weights again, and what it had
not finished is asked again. vLLM labels every token with the weights it came from, so nothing
sampled under other weights is taken.
"""

from __future__ import annotations

import asyncio
import queue
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from tspo_cli.errors import InvalidInputError, RemoteServiceError
from tspo_cli.rollout.engines.engine_protocol import Completion, GenerationRequest
from tspo_cli.rollout.engines.vllm_engine.vllm_control import LOST, TRIES, ServerControl
from tspo_cli.rollout.engines.vllm_engine.vllm_messages import (
    check_length,
    completion,
    sampling_params,
)

if TYPE_CHECKING:
    import torch

POLL = 0.02  # seconds that a step waits for the first completion


@dataclass(frozen=True)
class Siblings:
    """Training processes that share the servers: this one's number, how many there are, and how
    they wait.
    """

    rank: int = 0
    world: int = 1
    barrier: Callable[[], None] = lambda: None

    def mine(self, urls: Sequence[str]) -> list[str]:
        """Servers that this process sends requests to: its share, or one that it shares with
        others.
        """
        return list(urls[self.rank :: self.world]) or [urls[self.rank % len(urls)]]

    def led(self, urls: Sequence[str]) -> list[str]:
        """Servers that this process hands weights to; every server has one leader."""
        return list(urls[self.rank :: self.world])


class VllmServers:
    """The Engine protocol on one or several servers; a session stays with its server, which has its
    prefix cached.

    Args:
        urls: base URLs of all servers of the run.
        folder: where weights are handed over; learner and servers must both see it under this path.
        patience: seconds to wait for a server that is away.
        tell: takes a message for the person who runs this.

    Raises:
        RemoteServiceError: a server does not answer within `patience`.
        InvalidInputError: a server was started with a shorter context than `max_context`.
    """

    def __init__(
        self,
        urls: Sequence[str],
        folder: Path,
        *,
        eos_ids: Sequence[int],
        max_context: int,
        patience: float,
        siblings: Siblings,
        tell: Callable[[str], None],
    ) -> None:
        self.weight_version, self.owns_weights = 0, True
        self.all_urls = [url.rstrip("/") for url in urls]
        self.urls, self.led = siblings.mine(self.all_urls), siblings.led(self.all_urls)
        self.folder, self.siblings, self.tell = folder.absolute(), siblings, tell
        self.run = blake2b(str(self.folder).encode(), digest_size=4).hexdigest()
        self.eos_ids, self.max_context = list(eos_ids), max_context
        self.known: set[int] = set()
        self.home: dict[int, str] = {}
        self.running: dict[int, Future[None]] = {}
        self.ticket: dict[int, int] = {}
        self.tickets = count()
        self.arrived: queue.SimpleQueue[tuple[int, int, Completion | Exception]] = (
            queue.SimpleQueue()
        )
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True, name="vllm-requests").start()
        self.client = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=10.0),
            limits=httpx.Limits(max_connections=None),
            trust_env=False,
        )
        self.control = {
            url: ServerControl(url, self.client, patience=patience, place=self._place, tell=tell)
            for url in self.all_urls
        }
        for url in self.urls:
            self._wait(self.control[url].check(max_context))

    def submit(self, request: GenerationRequest) -> None:
        """Send a request. Raises ValueError when the session has one in flight."""
        session = request.session
        if session in self.running:
            raise ValueError(f"session {session} has a request in flight")
        over = check_length(
            request, self.max_context, session not in self.known, self.weight_version
        )
        self.known.add(session)
        # The number of a session comes again with the next batch; an answer that comes late must
        # not be taken for its.
        ticket = self.ticket[session] = next(self.tickets)
        if over is not None:
            self.arrived.put((session, ticket, over))
            return
        if session not in self.home:
            load = Counter(self.home.values())
            self.home[session] = min(self.urls, key=lambda url: load[url])
        self.running[session] = asyncio.run_coroutine_threadsafe(
            self._answer(request, ticket, self.home[session], self._label_of(self.weight_version)),
            self.loop,
        )

    def step(self) -> list[Completion]:
        """What has arrived; waits a moment when nothing has and something is on its way.

        Raises:
            RemoteServiceError: a server stayed away, or refuses a request.
        """
        finished: list[Completion] = []
        patient = bool(self.running)
        while True:
            try:
                session, ticket, answer = (
                    self.arrived.get(timeout=POLL) if patient else self.arrived.get_nowait()
                )
            except queue.Empty:
                return finished
            if self.ticket.get(session) != ticket:  # released meanwhile
                continue
            patient = False
            self.running.pop(session, None)
            if isinstance(answer, Exception):
                raise answer
            finished.append(answer)

    def release(self, session: int) -> None:
        """Forget the session; a request in flight is given up."""
        self.known.discard(session)
        self.home.pop(session, None)
        self.ticket.pop(session, None)
        future = self.running.pop(session, None)
        if future is not None:
            future.cancel()

    def load_weights(self, weights: Mapping[str, torch.Tensor] | None, version: int) -> None:
        """Write the weights once and have every server load them; all processes must call it.

        Raises:
            ValueError: None; servers have weights of their own.
            RemoteServiceError: a server stayed away, or cannot load them.
        """
        if weights is None:
            raise ValueError("vLLM servers keep weights of their own: give all of them")
        label = self._label_of(version)
        place = self._place(label)
        if self.siblings.rank == 0:
            _write(weights, place)
        self.siblings.barrier()
        for url in self.led:
            self._wait(self.control[url].hand_over(label))
        self.siblings.barrier()
        self.weight_version = version
        if self.siblings.rank == 0:
            for old in self.folder.glob("version_*"):
                if old != place:
                    shutil.rmtree(old)

    def sleep(self) -> None:
        """Does nothing: the servers manage their memory."""

    def close(self) -> None:
        """Drop requests in flight and close the connections. The servers keep running."""
        for session in list(self.running):
            self.release(session)
        self._wait(self.client.aclose())
        self.loop.call_soon_threadsafe(self.loop.stop)

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def _label_of(self, version: int) -> str:
        """What the server calls our weights: another run that uses it by mistake has other
        labels.
        """
        return f"{self.run}.{version}"

    def _place(self, label: str) -> Path:
        return self.folder / f"version_{label.rpartition('.')[2]}"

    async def _answer(self, request: GenerationRequest, ticket: int, url: str, label: str) -> None:
        try:
            self.arrived.put((request.session, ticket, await self._generate(request, url, label)))
        except (RemoteServiceError, InvalidInputError) as error:
            self.arrived.put((request.session, ticket, error))

    async def _generate(self, request: GenerationRequest, url: str, label: str) -> Completion:
        body = {
            "token_ids": request.token_ids,
            "sampling_params": sampling_params(request, self.max_context, self.eos_ids),
        }
        server = self.control[url]
        for _ in range(TRIES):
            try:
                answer = await server.ask("/inference/v1/generate", body)
            except LOST as error:
                await server.restore(label, error)
                continue
            choice = answer["choices"][0]
            versions = [span["version"] for span in choice["weight_versions"] or []]
            if set(versions) - {label}:  # restarted, and the request came before the weights
                await server.restore(label, None)
                continue
            logprobs = [one["logprob"] for one in choice["logprobs"]["content"] or []]
            reasons = choice["finish_reason"], choice["stop_reason"]
            numbers = [version.rpartition(".")[2] for version in versions]
            return completion(request.session, choice["token_ids"], logprobs, *reasons, numbers)
        raise RemoteServiceError(
            f"{url}: gave no answer under the current weights in {TRIES} tries; see its log"
        )


def _write(weights: Mapping[str, torch.Tensor], place: Path) -> None:
    """All weights as one safetensors file, whole or not at all."""
    from safetensors.torch import save_file

    temporary = place.with_name(f".{place.name}.tmp")
    for path in (temporary, place):
        shutil.rmtree(path, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(
        {name: value.detach().cpu().contiguous() for name, value in weights.items()},
        temporary / "model.safetensors",
    )
    temporary.rename(place)
