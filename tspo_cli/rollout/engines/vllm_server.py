"""vLLM servers behind URLs: requests travel as token ids, weights as safetensors files that both sides see.

A server that dies is waited for; when it is back it gets the current weights again, and what it had not finished is
asked again. vLLM labels every token with the weights it came from, so nothing sampled under other weights is taken.
"""

from __future__ import annotations

import asyncio
import queue
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from tspo_cli.errors import InvalidInputError, RemoteServiceError
from tspo_cli.rollout.engines.base import Completion, GenerationRequest
from tspo_cli.rollout.engines.vllm_requests import check_length, completion, sampling_params

if TYPE_CHECKING:
    import torch

POLL = 0.02  # seconds that a step waits for the first completion
RETRY = 1.0  # seconds between questions to a server that is away
TRIES = 5  # of one request, before something else than a restart must be wrong
LOST = (httpx.TransportError, httpx.HTTPStatusError)


@dataclass(frozen=True)
class Siblings:
    """Training processes that share the servers: this one's number, how many there are, and how they wait."""

    rank: int = 0
    world: int = 1
    barrier: Callable[[], None] = lambda: None

    def mine(self, urls: Sequence[str]) -> list[str]:
        """Servers that this process sends requests to: its share, or one that it shares with others."""
        return list(urls[self.rank :: self.world]) or [urls[self.rank % len(urls)]]

    def led(self, urls: Sequence[str]) -> list[str]:
        """Servers that this process hands weights to; every server has one leader."""
        return list(urls[self.rank :: self.world])


class VllmServers:
    """The Engine protocol on one or several servers; a session stays with its server, which has its prefix cached.

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
        self.weight_version = 0
        self.all_urls = [url.rstrip("/") for url in urls]
        self.urls, self.led = siblings.mine(self.all_urls), siblings.led(self.all_urls)
        self.folder, self.siblings, self.tell = folder.absolute(), siblings, tell
        self.eos_ids, self.max_context, self.patience = list(eos_ids), max_context, patience
        self.known: set[int] = set()
        self.home: dict[int, str] = {}
        self.running: dict[int, Future[None]] = {}
        self.arrived: queue.SimpleQueue[tuple[int, Completion | Exception]] = queue.SimpleQueue()
        self.restoring: dict[str, asyncio.Lock] = {url: asyncio.Lock() for url in self.all_urls}
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True, name="vllm-requests").start()
        self.client = httpx.AsyncClient(
            timeout=httpx.Timeout(None, connect=10.0), limits=httpx.Limits(max_connections=None), trust_env=False
        )
        for url in self.urls:
            self._wait(self._check(url))

    def submit(self, request: GenerationRequest) -> None:
        """Send a request. Raises ValueError when the session has one in flight."""
        session = request.session
        if session in self.running:
            raise ValueError(f"session {session} has a request in flight")
        over = check_length(request, self.max_context, session not in self.known)
        self.known.add(session)
        if over is not None:
            self.arrived.put((session, over))
            return
        if session not in self.home:
            load = Counter(self.home.values())
            self.home[session] = min(self.urls, key=lambda url: load[url])
        self.running[session] = asyncio.run_coroutine_threadsafe(
            self._answer(request, self.home[session], str(self.weight_version)), self.loop
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
                session, answer = self.arrived.get(timeout=POLL) if patient else self.arrived.get_nowait()
            except queue.Empty:
                return finished
            patient = False
            self.running.pop(session, None)
            if isinstance(answer, Exception):
                raise answer
            if session in self.known:  # not released meanwhile
                finished.append(answer)

    def release(self, session: int) -> None:
        """Forget the session; a request in flight is given up."""
        self.known.discard(session)
        self.home.pop(session, None)
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
        place = self._place(str(version))
        if self.siblings.rank == 0:
            _write(weights, place)
        self.siblings.barrier()
        for url in self.led:
            self._wait(self._hand_over(url, str(version)))
        self.siblings.barrier()
        self.weight_version = version
        if self.siblings.rank == 0:
            for old in self.folder.glob("version_*"):
                if old != place:
                    shutil.rmtree(old)

    def close(self) -> None:
        """Give up what is in flight and end the connections."""
        for session in list(self.running):
            self.release(session)
        self._wait(self.client.aclose())
        self.loop.call_soon_threadsafe(self.loop.stop)

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def _place(self, label: str) -> Path:
        return self.folder / f"version_{label}"

    async def _answer(self, request: GenerationRequest, url: str, label: str) -> None:
        try:
            self.arrived.put((request.session, await self._generate(request, url, label)))
        except (RemoteServiceError, InvalidInputError) as error:
            self.arrived.put((request.session, error))

    async def _generate(self, request: GenerationRequest, url: str, label: str) -> Completion:
        body = {
            "token_ids": request.token_ids,
            "sampling_params": sampling_params(request, self.max_context, self.eos_ids),
        }
        for _ in range(TRIES):
            try:
                answer = await self._post(url, "/inference/v1/generate", body)
            except LOST as error:
                await self._restore(url, label, error)
                continue
            choice = answer["choices"][0]
            versions = [span["version"] for span in choice["weight_versions"] or []]
            if set(versions) - {label}:  # restarted, and the request came before the weights
                await self._restore(url, label, None)
                continue
            logprobs = [one["logprob"] for one in choice["logprobs"]["content"] or []]
            reasons = choice["finish_reason"], choice["stop_reason"]
            return completion(request.session, choice["token_ids"], logprobs, *reasons, versions)
        raise RemoteServiceError(f"{url}: gave no answer under the current weights in {TRIES} tries; see its log")

    async def _restore(self, url: str, label: str, error: Exception | None) -> None:
        """Wait until the server answers, and hand it the weights again unless it has them."""
        if isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500:
            raise RemoteServiceError(f"{url}: refuses a request: {error.response.text[:300]}") from error
        async with self.restoring[url]:
            if await self._label(url) == label:
                return
            self.tell(f"engine {url} is lost{f' ({type(error).__name__})' if error else ''}; waiting for it")
            started = time.monotonic()
            await self._healthy(url)
            if await self._label(url) != label:
                await self._hand_over(url, label)
            self.tell(f"engine {url} is back after {time.monotonic() - started:.0f} s, with weights of step {label}")

    async def _label(self, url: str) -> str | None:
        try:
            return str((await self._get(url, "/weight_info"))["weight_version"])
        except LOST:
            return None

    async def _healthy(self, url: str) -> None:
        started = time.monotonic()
        while True:
            try:
                (await self.client.get(url + "/health", timeout=10.0)).raise_for_status()
                return
            except LOST as error:
                if time.monotonic() - started > self.patience:
                    raise RemoteServiceError(
                        f"{url}: no vLLM server answers ({type(error).__name__}), waited {self.patience:g} s; start "
                        "one with `tspo engine MODEL`, then use --resume"
                    ) from error
            await asyncio.sleep(RETRY)

    async def _check(self, url: str) -> None:
        await self._healthy(url)
        try:
            models = await self._get(url, "/v1/models")
            await self._get(url, "/weight_info")
        except LOST as error:
            raise InvalidInputError(f"{url}: is not a server started with `tspo engine` ({error})") from error
        room = models["data"][0]["max_model_len"]
        if room < self.max_context:
            raise InvalidInputError(
                f"{url}: was started for {room} tokens, the experiment needs {self.max_context}; "
                f"use `tspo engine --context {self.max_context}` or lower model.max_context"
            )

    async def _hand_over(self, url: str, label: str) -> None:
        for _ in range(TRIES):
            try:
                await self._post(url, "/pause?mode=keep")
                await self._post(
                    url, "/collective_rpc", {"method": "tspo_load_files", "args": [str(self._place(label))]}
                )
                await self._post(url, "/reset_prefix_cache")
                await self._post(url, "/update_weight_version", {"new_version": label})
                await self._post(url, "/resume")
                return
            except httpx.HTTPStatusError as error:
                raise RemoteServiceError(
                    f"{url}: could not load the weights in {self._place(label)} ({error.response.text[:300]}); the "
                    "server must see this folder and be started with `tspo engine`"
                ) from error
            except httpx.TransportError:
                await self._healthy(url)
        raise RemoteServiceError(f"{url}: was lost {TRIES} times while it loaded weights; see its log")

    async def _post(self, url: str, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = (await self.client.post(url + path, json=body)).raise_for_status()
        return answer.json() if answer.content else None

    async def _get(self, url: str, path: str) -> Any:
        return (await self.client.get(url + path, timeout=30.0)).raise_for_status().json()


def _write(weights: Mapping[str, torch.Tensor], place: Path) -> None:
    """All weights as one safetensors file, whole or not at all."""
    from safetensors.torch import save_file

    temporary = place.with_name(f".{place.name}.tmp")
    for path in (temporary, place):
        shutil.rmtree(path, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(
        {name: value.detach().cpu().contiguous() for name, value in weights.items()}, temporary / "model.safetensors"
    )
    temporary.rename(place)
