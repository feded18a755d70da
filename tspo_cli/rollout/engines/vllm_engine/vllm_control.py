"""Controls one vLLM server over HTTP: health checks, weight versions, new weights."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import httpx

from tspo_cli.errors import InvalidInputError, RemoteServiceError
from tspo_cli.retrieval.remote.read_answer import excerpt
from tspo_cli.rollout.engines.vllm_engine.adapters import ADAPTER
from tspo_cli.rollout.engines.vllm_engine.vllm_answers import (
    UNPACKED,
    context_of,
    json_of,
    label_in,
    number_in,
    read_whole,
    results_of,
    text_of,
)
from tspo_cli.text.access_token import ENGINE_TOKEN

RETRY_SECONDS = 1.0
"""Between two requests to a server that does not respond."""
HEALTH_CHECK_SECONDS = 60.0
"""Without a response to a long request, the server's health is checked this often."""
STATISTICS_SECONDS = 5.0
"""So long is waited for them. A step does without."""
TRIES = 5
"""Of one request. After that, a restart of the server cannot be the only problem."""
SERVER_ERRORS = (httpx.TransportError, httpx.HTTPStatusError)
LOADING = "loading"
"""In place of a label, while the weights that adapters lie beside are replaced."""


def label_of(run_id: str, frozen: str, handover: str, version: int) -> str:
    """The server's name for the weights of `version`, which no other hand-over has. `frozen` names
    the weights that adapters lie beside; empty: there are none.
    """
    return ".".join(part for part in (run_id, frozen, handover, str(version)) if part)


def frozen_part(label: str) -> str:
    """What the labels of all adapters beside one set of weights have in common."""
    return label.rsplit(".", 2)[0]


def version_of(label: str) -> str:
    """The version that a label names."""
    return label.rpartition(".")[2]


class ServerControl:
    """Health and weights of the server at `url`.

    A label names a version of the weights. The server reports it with every token, so that tokens
    sampled with other weights are noticed.

    Args:
        url: base URL of the server.
        client: sends the requests.
        patience: seconds to wait for a server that does not respond.
        weights_folder: returns the folder with the weights of a label. None: weights reach the
            server over NCCL, and only while the learner hands them over.
        frozen_folder: where adapters are handed over: the folder with the weights beside them,
            which `frozen_part` of a label names.
        adapter_rank: of the adapters; 0: whole weights are handed over.
        float32_head: the server must compute logits in float32.
    """

    def __init__(
        self,
        url: str,
        client: httpx.AsyncClient,
        *,
        patience: float,
        weights_folder: Callable[[str], Path] | None,
        frozen_folder: Callable[[], Path] | None = None,
        adapter_rank: int = 0,
        float32_head: bool = False,
    ) -> None:
        self.url, self.client, self.patience = url, client, patience
        self.weights_folder, self.frozen_folder = weights_folder, frozen_folder
        self.adapter_rank, self.float32_head = adapter_rank, float32_head
        self.health_timeout = min(30.0, max(1.0, patience))

    async def check(self, max_context: int) -> None:
        """Check that the run can use the server.

        Raises:
            RemoteServiceError: it does not respond within `patience`.
            InvalidInputError: it refuses the token, was not started with `tspo engine`, with a
            context shorter than `max_context` tokens, without room for the adapters, or without a
            float32 head.
        """
        await self.wait_until_healthy()
        try:
            context = context_of(await self.get("/v1/models"))
            label_in(await self.get("/weight_info"))
            room = number_in(await self._ask("tspo_adapter_rank")) if self.adapter_rank else 0
            head = await self._ask("tspo_head_type") if self.float32_head else "float32"
        except SERVER_ERRORS as error:
            self.refuse_token(error)
            raise InvalidInputError(
                f"{self.url}: was not started with `tspo engine` ({error})"
            ) from error
        if context < max_context:
            raise InvalidInputError(
                f"{self.url}: was started for {context} tokens, the experiment needs "
                f"{max_context}; use `tspo engine --context {max_context}` or lower "
                "model.max_context"
            )

        if head != "float32":
            raise InvalidInputError(
                f"{self.url}: computes logits in {excerpt(str(head))}, the experiment has "
                "model.float32_head; use `tspo engine --float32-head`"
            )
        if room < self.adapter_rank:
            raise InvalidInputError(
                f"{self.url}: was started for adapters of rank {room}, the experiment has rank "
                f"{self.adapter_rank}; use `tspo engine --lora-rank {self.adapter_rank}`, or set "
                'lora.handover = "merged", which rounds them into the weights'
            )

    def refuse_token(self, error: Exception) -> None:
        """Raises:
        InvalidInputError: `error` is that the server did not accept the token.
        """
        if isinstance(error, httpx.HTTPStatusError) and error.response.status_code in (401, 403):
            raise InvalidInputError(
                f"{self.url}: refuses the token; give the one of `tspo engine` in {ENGINE_TOKEN} "
                "or vllm.token_file"
            ) from error

    async def is_alive(self) -> bool:
        """Whether the server responds now and its engine runs."""
        try:
            await self._request("GET", "/health", timeout=self.health_timeout)
        except SERVER_ERRORS:
            return False
        return True

    async def until_alive(self) -> None:
        """Wait until the server is alive, for as long as that takes."""
        while not await self.is_alive():
            await asyncio.sleep(RETRY_SECONDS)

    async def wait_until_healthy(self) -> None:
        """Wait until the server is alive.

        Raises:
            RemoteServiceError: it is not within `patience`.
        """
        try:
            await asyncio.wait_for(self.until_alive(), self.patience)
        except TimeoutError:
            raise RemoteServiceError(
                f"{self.url}: no vLLM server responds, waited {self.patience:g} s "
                "(vllm.patience); start one with `tspo engine MODEL`, then use --resume"
            ) from None

    async def label(self) -> str | None:
        """The label of the server's weights, None while it does not respond."""
        try:
            return label_in(await self.get("/weight_info"))
        except SERVER_ERRORS:
            return None

    async def hand_over(self, label: str) -> None:
        """Make the server load the weights of `label`.

        Raises:
            httpx.TransportError: the server is lost.
            RemoteServiceError: it cannot load them, or gets none now.
            InvalidInputError: it refuses the token.
        """
        if self.weights_folder is None:
            raise RemoteServiceError(
                f"{self.url}: responds without the current weights, which it gets over NCCL at the "
                "next hand-over; without another server, use --resume"
            )
        try:
            await self.post_long("/pause?mode=keep")
            await self._load(label)
            await self.post("/reset_prefix_cache")
            await self.post("/update_weight_version", {"new_version": label})
            await self.post("/resume")
        except httpx.HTTPStatusError as error:
            folder = self.weights_folder(label)
            await self.fail(
                error,
                f"could not load the weights in {folder}",
                "the server must see this folder and be started with `tspo engine`",
            )

    async def fail(self, error: httpx.HTTPStatusError, what: str, cure: str) -> NoReturn:
        """Say what a response to a hand-over means.

        Raises:
            httpx.TransportError: the server is lost.
            RemoteServiceError: it is there, and refuses.
            InvalidInputError: it refuses the token.
        """
        self.refuse_token(error)
        await asyncio.sleep(RETRY_SECONDS)  # it may be about to exit
        if not await self.is_alive():
            raise httpx.ReadError(f"{self.url} does not respond") from error
        raise RemoteServiceError(
            f"{self.url}: {what} ({excerpt(error.response.content)}); {cure}"
        ) from error

    async def _load(self, label: str) -> None:
        assert self.weights_folder is not None
        folder = str(self.weights_folder(label))
        if self.frozen_folder is None:
            await self._ask("tspo_load_files", folder)
            return
        held = label_in(await self.get("/weight_info"))
        if frozen_part(held) != frozen_part(label):
            # Until all is loaded, no label that the server had may count.
            await self.post("/update_weight_version", {"new_version": LOADING})
            await self._ask("tspo_load_files", str(self.frozen_folder()))
        adapter = {"lora_name": ADAPTER, "lora_path": folder, "load_inplace": True}
        await self.post_long("/v1/load_lora_adapter", adapter, is_text=True)
        different = await self._ask("tspo_different_adapter_file", folder)
        if different is not None:
            raise RemoteServiceError(
                f"{self.url}: does not compute with {excerpt(str(different))} of {folder}; leave "
                'its layer out of lora.targets, or set lora.handover = "merged"'
            )

    async def _ask(self, method: str, *arguments: str) -> Any:
        """What the server's workers return from a method of `ReloadExtension`: the first that is
        not None.
        """
        return next((result for result in await self.ask_all(method, *arguments) if result), None)

    async def offer(self) -> list[dict[str, Any]]:
        """What each worker says of transfers (`tspo_transfer`); empty: it cannot tell."""
        try:
            answers = await self.ask_all("tspo_transfer")
        except SERVER_ERRORS as error:
            self.refuse_token(error)
            return []
        return [answer for answer in answers if isinstance(answer, dict)]

    async def ask_all(self, method: str, *arguments: str) -> list[Any]:
        """What each of the server's workers returns from a method of `ReloadExtension`."""
        body = {"method": method, "args": list(arguments)}
        return results_of(await self.post_long("/collective_rpc", body))

    async def post_long(
        self, path: str, body: dict[str, Any] | None = None, *, is_text: bool = False
    ) -> Any:
        """`post` a request that may take long, with health checks while it runs. They notice a
        server whose machine is gone: then the request fails with ReadTimeout.
        """
        interval = min(HEALTH_CHECK_SECONDS, self.patience)
        response = asyncio.ensure_future(self.post(path, body, is_text=is_text))
        try:
            while not (await asyncio.wait({response}, timeout=interval))[0]:
                if not await self.is_alive():
                    raise httpx.ReadTimeout(f"{self.url} does not respond")
            return response.result()
        finally:
            response.cancel()

    async def statistics(self) -> str:
        """What the server says of itself, as Prometheus reads it; empty if it says nothing, or
        nothing that can be read: no step ends for it.
        """
        try:
            response = await self._request("GET", "/metrics", timeout=STATISTICS_SECONDS)
        except httpx.HTTPError:
            return ""
        return text_of(response)

    async def post(
        self, path: str, body: dict[str, Any] | None = None, *, is_text: bool = False
    ) -> Any:
        """The response to `body`: what its JSON says, or a text where the route answers with one;
        None for an empty one. Raises `SERVER_ERRORS`.
        """
        response = await self._request("POST", path, json=body)
        if is_text:
            return text_of(response)
        return json_of(response) if response.content else None

    async def get(self, path: str) -> Any:
        """The JSON response. Raises `SERVER_ERRORS`."""
        return json_of(await self._request("GET", path, timeout=30.0))

    async def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """A response of success. Raises `SERVER_ERRORS`."""
        stream = self.client.stream(method, self.url + path, headers=UNPACKED, **options)
        async with stream as response:
            whole = await read_whole(response)
        return whole.raise_for_status()
