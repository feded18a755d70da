"""vLLM servers over HTTP: requests are sent as token ids, weights as safetensors files that
both sides see or over NCCL.

The requests of a server that was lost go to the others. When the server is back, it gets the
current weights. vLLM labels every token with the version of its weights, so that tokens sampled
with other weights are noticed and requested again.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import httpx

from tspo_cli.config.urls import is_this_machine
from tspo_cli.retrieval.remote.timed_transport import keep_answers_apart
from tspo_cli.rollout.engines.engine_protocol import Completion, GenerationRequest
from tspo_cli.rollout.engines.vllm_engine.adapters import ADAPTER, Adapters
from tspo_cli.rollout.engines.vllm_engine.cache_use import CacheUse
from tspo_cli.rollout.engines.vllm_engine.nccl import GroupMaker
from tspo_cli.rollout.engines.vllm_engine.vllm_answers import read_generated
from tspo_cli.rollout.engines.vllm_engine.vllm_control import (
    ServerControl,
    label_of,
    version_of,
)
from tspo_cli.rollout.engines.vllm_engine.vllm_group import OtherWeightsError, ServerGroup
from tspo_cli.rollout.engines.vllm_engine.vllm_messages import (
    check_length,
    completion,
    sampling_params,
)
from tspo_cli.rollout.engines.vllm_engine.weight_files import WeightFiles, digest_of
from tspo_cli.rollout.engines.vllm_engine.weight_sender import Transfer, Weights, open_sender
from tspo_cli.text.access_token import authorisation

if TYPE_CHECKING:
    import torch

LOOK_SECONDS = 2.0
"""Between two looks at the caches of the servers."""
FROZEN = "frozen"
"""In place of a version: the weights that adapters lie beside."""
POLL_SECONDS = 0.02
"""How long a step waits for the first completion."""


@dataclass(frozen=True)
class ProcessGroup:
    """The training processes that share the servers, seen from process `rank`. `barrier` returns
    when all of them have called it, and `gather` returns what each of them gave it, by rank.
    """

    rank: int = 0
    world_size: int = 1
    barrier: Callable[[], None] = lambda: None
    gather: Callable[[str], list[str]] = lambda own: [own]

    def request_urls(self, urls: Sequence[str]) -> list[str]:
        """The servers that this process sends requests to: all of them. Every process begins with
        another one.
        """
        first = self.rank % len(urls)
        return [*urls[first:], *urls[:first]]

    def update_urls(self, urls: Sequence[str]) -> list[str]:
        """Servers that this process hands weights to. Each server gets them from one process."""
        return list(urls[self.rank :: self.world_size])


class VllmServers:
    """The Engine protocol on one or several servers, which share the requests of all processes (see
    `ServerGroup`).

    Args:
        urls: base URLs of all servers of the run.
        folder: where weights are handed over. Learner and servers must see it under this path.
        eos_ids: tokens that end a request.
        max_context: most tokens of a session.
        patience: seconds to wait for servers, at the start and when none is left.
        processes: the training processes that share the servers.
        log: shows a message to the user.
        vocabulary: how many tokens the model has.
        token: sent with every request as `Authorization: Bearer ...`; empty: none.
        in_memory: weights may lie in memory where all servers run on this machine.
        adapters: of the policy, where the servers compute with them. They get the weights beside
            them once, and then adapters alone.
        float32_head: the servers must compute logits in float32.
        transfer: how weights reach the servers: as "files", over "nccl", or "auto": over NCCL where
            that is possible.
        groups: makes groups for NCCL; None where this process has no GPU.

    Raises:
        RemoteServiceError: a server does not respond within `patience`.
        InvalidInputError: a server refuses the token, has a shorter context than `max_context`, no
        room for the adapters, or cannot get weights over NCCL as `transfer` demands.
    """

    def __init__(
        self,
        urls: Sequence[str],
        folder: Path,
        *,
        eos_ids: Sequence[int],
        max_context: int,
        patience: float,
        processes: ProcessGroup,
        log: Callable[[str], None],
        vocabulary: int = 2**31,
        token: str = "",
        in_memory: bool = False,
        adapters: Adapters | None = None,
        float32_head: bool = False,
        transfer: Transfer = "files",
        groups: GroupMaker | None = None,
    ) -> None:
        self.weight_version, self.owns_weights = 0, True
        all_urls = [url.rstrip("/") for url in urls]
        self.update_urls = processes.update_urls(all_urls)
        self.processes = processes
        self.run_id = blake2b(str(folder.absolute()).encode(), digest_size=4).hexdigest()
        # A run that goes back to an earlier step, is resumed or starts anew hands over versions
        # that servers had before, with other weights.
        self.attempt, self.handovers = processes.gather(token_hex(4))[0], 0
        self.files = WeightFiles(
            folder.absolute(),
            self.run_id,
            in_memory=in_memory and all(map(is_this_machine, urls)),
            rank=processes.rank,
            world_size=processes.world_size,
            barrier=processes.barrier,
        )
        self.adapters, self.frozen = adapters, ""
        self.eos_ids, self.max_context, self.vocabulary = list(eos_ids), max_context, vocabulary
        self.known: set[int] = set()
        self.running: dict[int, Future[None]] = {}
        self.request_number: dict[int, int] = {}
        self.request_numbers = count()
        self.results: queue.SimpleQueue[tuple[int, int, Completion | Exception]] = (
            queue.SimpleQueue()
        )
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True, name="vllm-requests").start()
        client = httpx.AsyncClient(
            headers=authorisation(token),
            timeout=httpx.Timeout(None, connect=10.0),
            limits=httpx.Limits(max_connections=None),
            trust_env=False,
        )
        self.client = keep_answers_apart(client)
        controls = {
            url: ServerControl(
                url,
                self.client,
                patience=patience,
                weights_folder=self._weights_folder,
                frozen_folder=(lambda: self.files.of(FROZEN)) if adapters else None,
                adapter_rank=adapters.rank if adapters else 0,
                float32_head=float32_head,
            )
            for url in processes.request_urls(all_urls)
        }
        self.group = ServerGroup(controls, patience=patience, log=log)
        for control in controls.values():
            self._wait(control.check(max_context))
        self.sender = open_sender(
            self.group,
            transfer,
            groups,
            adapters=adapters is not None,
            gather=processes.gather,
            log=log if processes.rank == 0 else lambda _: None,
            run=self._wait,
        )
        self.takes_one_by_one = self.sender is not None
        self.cache_use = CacheUse()
        self.watching = asyncio.run_coroutine_threadsafe(self._watch(), self.loop)

    def submit(self, request: GenerationRequest) -> None:
        """Send a request. Raises ValueError when the session has one in flight."""
        session = request.session
        if session in self.running:
            raise ValueError(f"session {session} has a request in flight")
        too_long = check_length(
            request, self.max_context, session not in self.known, self.weight_version
        )
        self.known.add(session)
        # The next batch uses the same session numbers. The number of the request tells a late
        # response apart from the response to the new request.
        number = self.request_number[session] = next(self.request_numbers)
        if too_long is not None:
            self.results.put((session, number, too_long))
            return
        label = self._label(self.weight_version)
        self.running[session] = asyncio.run_coroutine_threadsafe(
            self._run(request, number, label), self.loop
        )

    def step(self) -> list[Completion]:
        """The requests that finished since the last step. While requests run and none has
        finished, it waits for `POLL_SECONDS`.

        Raises:
            RemoteServiceError: no server comes back, or one rejects a request.
        """
        finished: list[Completion] = []
        may_wait = bool(self.running)
        while True:
            try:
                session, number, result = (
                    self.results.get(timeout=POLL_SECONDS)
                    if may_wait
                    else self.results.get_nowait()
                )
            except queue.Empty:
                return finished
            if self.request_number.get(session) != number:  # the session was released
                continue
            may_wait = False
            self.running.pop(session, None)
            if isinstance(result, Exception):
                raise result
            finished.append(result)

    def release(self, session: int) -> None:
        """Forget the session and cancel its request in flight."""
        self.known.discard(session)
        self.request_number.pop(session, None)
        future = self.running.pop(session, None)
        if future is not None:
            future.cancel()
        self.loop.call_soon_threadsafe(self.group.forget, session)

    def load_weights(self, weights: Mapping[str, torch.Tensor] | None, version: int) -> None:
        """Write the weights, each process a part, and have every server load them; all processes
        must call it. A server that is lost gets them when it is back. Over NCCL see
        `load_one_by_one`.

        Raises:
            ValueError: `weights` is None; the servers own their weights.
            RemoteServiceError: a server cannot load them.
        """
        if weights is None:
            raise ValueError("vLLM servers own their weights: expected all of them, got None")
        if self.sender is not None:
            self.load_one_by_one(lambda: iter(weights.items()), version)
            return
        self._wait(self.group.pause_returns())
        self._write(weights, str(version))
        self.handovers += 1
        label = self._label(version)
        self._wait(self.group.hand_over(self.update_urls, label))
        self._all_have(version, label)
        if self.processes.rank == 0:
            self.files.keep_only(str(version), FROZEN)

    def load_one_by_one(self, weights: Weights, version: int) -> None:
        """Send the weights over NCCL; see `TakesOneByOne`. A server that is lost gets those of the
        next hand-over.

        Raises:
            RemoteServiceError: a server that responds does not take them.
        """
        assert self.sender is not None
        self._wait(self.group.pause_returns())
        self.handovers += 1
        label = self._label(version)
        self.sender.send(weights, self.update_urls, label)
        self._all_have(version, label)

    def _all_have(self, version: int, label: str) -> None:
        """Every server that is not lost has the weights of `label`, once all processes are here."""
        self.processes.barrier()
        self.weight_version = version
        self._wait(self.group.expect(label))

    def _write(self, weights: Mapping[str, torch.Tensor], version: str) -> None:
        """Write the weights, or the adapters and the first time the weights beside them."""
        adapters = self.adapters
        if adapters is None:
            self.files.write(weights, version)
            return
        if not self.frozen:
            frozen = adapters.frozen()
            self.files.write(frozen, FROZEN)
            self.frozen = digest_of(frozen)

        def write(folder: Path) -> None:
            if self.processes.rank == 0:
                adapters.write(weights, folder)

        self.files.write_files(write, version, sum(value.nbytes for value in weights.values()))

    def different_weight(self, weights: Mapping[str, torch.Tensor]) -> str | None:
        """None: servers do not give their weights. They say which version they loaded."""
        return None

    def sleep(self) -> None:
        """Does nothing: the servers manage their memory."""

    def take_load(self) -> dict[str, float]:
        """See `ReportsLoad`. The caches of the servers that get their weights from this process
        are looked at every `LOOK_SECONDS` while it has requests, so that a short peak may be
        missed.
        """
        self._wait(self._look())
        return self.cache_use.take()

    def close(self) -> None:
        """Drop requests in flight and close the connections. The servers keep running."""
        self.watching.cancel()
        for session in list(self.running):
            self.release(session)
        self._wait(self.group.pause_returns())
        if self.sender is not None:
            self.sender.close()
        self._wait(self.client.aclose())
        self.files.close()
        self.loop.call_soon_threadsafe(self.loop.stop)

    def _wait(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def _label(self, version: int) -> str:
        """The server's name for the weights of the last hand-over."""
        handover = f"{self.attempt}-{self.handovers}"
        return label_of(self.run_id, self.frozen, handover, version)

    def _weights_folder(self, label: str) -> Path:
        return self.files.of(version_of(label))

    async def _watch(self) -> None:
        await self._look()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if self.running:
                await self._look()

    async def _look(self) -> None:
        urls = [url for url in self.update_urls if url not in self.group.returning]
        texts = await asyncio.gather(*(self.group.controls[url].statistics() for url in urls))
        for url, text in zip(urls, texts, strict=True):
            self.cache_use.see_metrics(url, text)

    async def _run(self, request: GenerationRequest, number: int, label: str) -> None:
        result: Completion | Exception
        try:
            result = await self._generate(request, label)
        except Exception as error:  # whoever waits for the completion would wait for ever
            result = error
        self.results.put((request.session, number, result))

    async def _generate(self, request: GenerationRequest, label: str) -> Completion:
        body: dict[str, Any] = {
            "token_ids": request.token_ids,
            "sampling_params": sampling_params(request, self.max_context, self.eos_ids),
        }
        if self.adapters:
            body["model"] = ADAPTER

        async def send(server: ServerControl) -> Completion:
            try:
                response = await server.post_long("/inference/v1/generate", body)
            except httpx.HTTPStatusError as error:
                if self.adapters and error.response.status_code == 404:
                    raise OtherWeightsError from None  # started again: it has no adapters yet
                raise
            most = body["sampling_params"]["max_tokens"]
            turn = read_generated(response, most, self.vocabulary)
            if set(turn.versions) - {label}:
                raise OtherWeightsError
            return completion(
                request.session,
                turn.token_ids,
                turn.logprobs,
                turn.finish_reason,
                turn.stop_reason,
                [version_of(version) for version in turn.versions],
            )

        return await self.group.ask(request.session, label, send)
