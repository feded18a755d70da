"""Weights to vLLM servers over NCCL, by vLLM's own weight-transfer API: names and shapes in a
request, tensors over a group of this process and the server's workers.

Each server has a group of its own, so that one that is lost takes no other with it.
"""

from __future__ import annotations

import asyncio
import threading
from base64 import b64encode
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import httpx

from tspo_cli.errors import InvalidInputError, RemoteServiceError
from tspo_cli.rollout.engines.vllm_engine.nccl import (
    GroupMaker,
    TensorGroup,
    TransferError,
    version_words,
)
from tspo_cli.rollout.engines.vllm_engine.vllm_control import SERVER_ERRORS, ServerControl
from tspo_cli.rollout.engines.vllm_engine.vllm_group import ServerGroup

if TYPE_CHECKING:
    import torch

Weights = Callable[[], Iterator[tuple[str, "torch.Tensor"]]]
"""Every call goes through all weights once, in the same order; all processes must make it."""
Transfer = Literal["auto", "files", "nccl"]
TRANSFER_SECONDS, SECONDS_PER_GB = 60.0, 20.0
"""A transfer may take so long, and so much longer for every 10^9 bytes."""
CLOSE_SECONDS = 10.0
"""So long is waited for servers that leave their groups at the end."""


def obstacle(
    offers: Mapping[str, Sequence[Mapping[str, Any]]], groups: GroupMaker | None, *, adapters: bool
) -> str:
    """Why weights cannot go to the servers over NCCL, with what to do; empty if they can. `offers`
    are what the workers of each server say of themselves (`tspo_transfer`).
    """
    if adapters:
        return 'adapters go as files; lora.handover = "merged" sends whole weights'
    if groups is None:
        return "it needs a GPU for the training process, and this one has none"
    if not groups.version:
        return "NCCL is not installed here (it comes with torch for GPUs)"
    for url, workers in offers.items():
        if not workers or any(worker.get("backend") != "nccl" for worker in workers):
            return f"{url}: was not started with `tspo engine --transfer nccl` on a GPU"
        for worker in workers:
            if worker.get("nccl") != groups.version:
                here, there = version_words(groups.version), version_words(worker.get("nccl") or 0)
                return f"{url}: has NCCL {there}, the training process {here}; both need the same"
            if worker.get("gpu") == groups.gpu:
                return f"{url}: uses the GPU of a training process, NCCL needs one for each"
    return ""


def open_sender(
    servers: ServerGroup,
    transfer: Transfer,
    groups: GroupMaker | None,
    *,
    adapters: bool,
    gather: Callable[[str], list[str]],
    log: Callable[[str], None],
    run: Callable[[Coroutine[Any, Any, Any]], Any],
) -> WeightSender | None:
    """What sends weights over NCCL; None: they go as files. All processes get the same.

    Args:
        servers: all servers of the run.
        transfer: the user's wish.
        groups: makes the groups of tensors; None where this process has no GPU.
        adapters: the servers compute with adapters.
        gather: returns what every process gave it.
        log: shows a message to the user.
        run: see `WeightSender`.

    Raises:
        InvalidInputError: NCCL is wished for and not possible, or a server refuses the token.
    """
    if transfer == "files" or (transfer == "auto" and groups is None):
        return None
    offers = {url: run(control.offer()) for url, control in servers.controls.items()}
    reasons = gather(obstacle(offers, groups, adapters=adapters))
    reason = next((reason for reason in reasons if reason), "")
    if reason and transfer == "nccl":
        raise InvalidInputError(
            f'vllm.transfer: nccl is not possible: {reason}; or set vllm.transfer = "files"'
        )
    if reason or groups is None:
        log(f"weights reach the vLLM servers as files, not over NCCL: {reason}")
        return None
    log("weights reach the vLLM servers over NCCL")
    for control in servers.controls.values():
        control.weights_folder = None
    workers = {url: len(offer) for url, offer in offers.items()}
    return WeightSender(servers, workers, groups, run=run)


@dataclass(frozen=True, slots=True)
class Shape:
    """What a server must know of a tensor that it receives."""

    name: str
    dtype: str
    sizes: tuple[int, ...]
    bytes: int

    @classmethod
    def of(cls, name: str, tensor: torch.Tensor) -> Shape:
        """The shape of `tensor`, which `name` names."""
        dtype = str(tensor.dtype).removeprefix("torch.")
        return cls(name, dtype, tuple(tensor.shape), tensor.nbytes)


class WeightSender:
    """Sends weights to the servers that this process hands weights to.

    Args:
        servers: all servers of the run; they say which are lost.
        workers: number of workers of each server, by URL.
        groups: makes the groups of tensors.
        run: runs a coroutine in the thread of the servers' event loop, and returns its result.
    """

    def __init__(
        self,
        servers: ServerGroup,
        workers: Mapping[str, int],
        groups: GroupMaker,
        *,
        run: Callable[[Coroutine[Any, Any, Any]], Any],
    ) -> None:
        self.servers, self.workers, self.maker = servers, workers, groups
        self.patience, self.run = servers.patience, run
        self.groups: dict[str, TensorGroup] = {}
        self.given: dict[str, str] = {}
        """The label of the last weights of each server; one with another was started again."""
        self.shapes: list[Shape] = []

    def send(self, weights: Weights, urls: Sequence[str], label: str) -> None:
        """Give all `urls` that respond the weights of `label`. One that is lost on the way is left
        out. All processes call it, those without `urls` too.

        Raises:
            RemoteServiceError: a server is there and does not take the weights.
            InvalidInputError: it refuses the token.
        """
        if not self.shapes:
            self.shapes = [Shape.of(name, tensor) for name, tensor in weights()]
        there = self.run(self._there(urls))
        receiving: dict[str, asyncio.Task[None]] = {}
        try:
            self.run(self._each(there, lambda url: self._begin(url), label))
            there = [url for url in there if url in self.groups]
            receiving = self.run(self._start_receiving(there))
            self._broadcast(weights, there)
            self.run(self._each(there, lambda url: self._received(receiving[url]), label))
            self._wait(there, label)
            there = [url for url in there if url in self.groups]
            self.run(self._each(there, lambda url: self._finish(url, label), label))
        except BaseException:
            for url in list(self.groups):
                self._drop(url)
            self.run(_cancel(receiving.values()))
            raise

    def close(self) -> None:
        """Leave all groups. Servers that do not answer are not waited for."""
        groups, self.groups = self.groups, {}

        async def leave() -> None:
            requests = [
                self.servers.controls[url].post("/shutdown_weight_transfer_engine")
                for url in groups
            ]
            done = asyncio.gather(*requests, return_exceptions=True)
            await asyncio.wait({done}, timeout=CLOSE_SECONDS)

        for group in groups.values():
            group.abort()
        if groups:
            self.run(leave())

    async def _there(self, urls: Sequence[str]) -> list[str]:
        """Those of `urls` that are not lost, or respond again."""
        lost, controls = self.servers.returning, self.servers.controls
        return [url for url in urls if url not in lost or await controls[url].is_alive()]

    async def _each(
        self, urls: Sequence[str], do: Callable[[str], Coroutine[Any, Any, None]], label: str
    ) -> None:
        await asyncio.gather(*(self._try(url, do, label) for url in urls))

    async def _try(
        self, url: str, do: Callable[[str], Coroutine[Any, Any, None]], label: str
    ) -> None:
        """`do`, unless the server is lost: then it is left out."""
        control = self.servers.controls[url]
        try:
            try:
                await do(url)
            except httpx.HTTPStatusError as error:
                await control.fail(error, "does not take weights over NCCL", "its log may say why")
            except TransferError as error:
                if await control.is_alive():
                    raise RemoteServiceError(
                        f"{url}: weights do not reach it over NCCL ({error}); see its log, or set "
                        'vllm.transfer = "files"'
                    ) from error
                raise httpx.ReadError(f"{url} does not respond") from error
        except httpx.TransportError as error:
            self._drop(url)
            if url not in self.servers.returning:
                reason = f" ({type(error).__name__}) at a hand-over"
                self.servers.leave_out(url, label, reason)

    async def _begin(self, url: str) -> None:
        """Pause the server, meet it if it is new or was started again, and announce weights."""
        control = self.servers.controls[url]
        if url in self.groups and await control.label() != self.given.get(url):
            self._drop(url)

        async def begin() -> None:
            await control.post_long("/pause?mode=keep")
            if url not in self.groups:
                self.groups[url] = await self._meet(control)
            await control.post_long("/start_weight_update")

        await self._soon(begin(), url)

    async def _soon(self, work: Coroutine[Any, Any, None], url: str) -> None:
        try:
            await asyncio.wait_for(work, self.patience)
        except TimeoutError:
            raise RemoteServiceError(
                f"{url}: does not get ready for weights over NCCL within {self.patience:g} s "
                "(vllm.patience); see its log and start it again, or set vllm.transfer = "
                '"files"'
            ) from None

    async def _meet(self, control: ServerControl) -> TensorGroup:
        group_id, members = self.maker.new_id(), 1 + self.workers[control.url]
        info = {
            "nccl_unique_id_b64": b64encode(group_id).decode(),
            "rank_offset": 1,
            "world_size": members,
            "packed": False,
        }
        request = asyncio.ensure_future(
            control.post_long("/init_weight_transfer_engine", {"init_info": info})
        )
        joining = asyncio.ensure_future(_in_thread(lambda: self.maker.join(group_id, members)))
        try:
            await asyncio.wait({request, joining}, return_when=asyncio.FIRST_EXCEPTION)
            if request.done():
                request.result()  # says more than the error of the group
            group = await joining
            await request
            return group
        finally:
            request.cancel()
            joining.cancel()

    async def _start_receiving(self, urls: Sequence[str]) -> dict[str, asyncio.Task[None]]:
        return {url: asyncio.ensure_future(self._receive(url)) for url in urls}

    async def _receive(self, url: str) -> None:
        """Have the server receive. When that fails, nobody waits in the group any more."""
        group = self.groups[url]
        info = {
            "names": [shape.name for shape in self.shapes],
            "dtype_names": [shape.dtype for shape in self.shapes],
            "shapes": [list(shape.sizes) for shape in self.shapes],
        }
        request = self.servers.controls[url].post_long("/update_weights", {"update_info": info})
        try:
            await asyncio.wait_for(request, self._limit())
        except TimeoutError:
            group.abort()
            raise TransferError(f"not received within {self._limit():.0f} s") from None
        except SERVER_ERRORS:
            group.abort()
            raise

    async def _received(self, receiving: asyncio.Task[None]) -> None:
        await receiving

    async def _finish(self, url: str, label: str) -> None:
        control = self.servers.controls[url]

        async def finish() -> None:
            await control.post_long("/finish_weight_update", {"weight_version": label})
            await control.ask_all("tspo_pack_tied_head")
            await control.post("/reset_prefix_cache")
            await control.post("/resume")

        await self._soon(finish(), url)
        self.given[url] = label

    def _broadcast(self, weights: Weights, urls: Sequence[str]) -> None:
        """Go through all weights, also where a server is lost: other processes gather them too."""
        expected, groups = iter(self.shapes), [self.groups[url] for url in urls]
        for name, tensor in weights():
            shape = next(expected, None)
            if shape != Shape.of(name, tensor):
                raise ValueError(f"expected {shape} in the hand-over, got {Shape.of(name, tensor)}")
            row_by_row = tensor.detach().contiguous()
            for group in groups:
                try:
                    group.broadcast(row_by_row)
                except TransferError:  # then the server does not receive, which says more
                    group.abort()

    def _wait(self, urls: Sequence[str], label: str) -> None:
        """Until the tensors may change."""
        errors: dict[str, TransferError] = {}
        for url in urls:
            try:
                if url in self.groups:
                    self.groups[url].wait(self._limit())
            except TransferError as error:
                errors[url] = error

        async def tell(url: str) -> None:
            raise errors[url]

        self.run(self._each(list(errors), tell, label))

    def _limit(self) -> float:
        size = sum(shape.bytes for shape in self.shapes)
        return TRANSFER_SECONDS + SECONDS_PER_GB * size / 1e9

    def _drop(self, url: str) -> None:
        group = self.groups.pop(url, None)
        if group is not None:
            group.abort()


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _in_thread(work: Callable[[], Any]) -> Any:
    """The result of `work` in a thread that no end of the process waits for."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, error: BaseException | None) -> None:
        if done.cancelled():
            return
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)

    def run() -> None:
        try:
            result, error = work(), None
        except BaseException as raised:
            result, error = None, raised
        loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, daemon=True, name="nccl").start()
    return await done
