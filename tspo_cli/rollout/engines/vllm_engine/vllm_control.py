"""Controls one vLLM server over HTTP: health checks, weight versions, new weights."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tspo_cli.errors import InvalidInputError, RemoteServiceError
from tspo_cli.text.access_token import ENGINE_TOKEN

RETRY_SECONDS = 1.0
"""Between two requests to a server that does not respond."""
HEALTH_CHECK_SECONDS = 60.0
"""Without a response to a long request, the server's health is checked this often."""
TRIES = 5
"""Of one request. After that, a restart of the server cannot be the only problem."""
SERVER_ERRORS = (httpx.TransportError, httpx.HTTPStatusError)


class ServerControl:
    """Health and weights of the server at `url`.

    A label names a version of the weights. The server reports it with every token, so that tokens
    sampled with other weights are noticed.

    Args:
        url: base URL of the server.
        client: sends the requests.
        patience: seconds to wait for a server that does not respond.
        weights_folder: returns the folder with the weights of a label.
        log: shows a message to the user.
    """

    def __init__(
        self,
        url: str,
        client: httpx.AsyncClient,
        *,
        patience: float,
        weights_folder: Callable[[str], Path],
        log: Callable[[str], None],
    ) -> None:
        self.url, self.client, self.patience = url, client, patience
        self.weights_folder, self.log = weights_folder, log
        self.health_timeout = min(30.0, max(1.0, patience))
        self.restoring = asyncio.Lock()

    async def check(self, max_context: int) -> None:
        """Check that the run can use the server.

        Raises:
            RemoteServiceError: it does not respond within `patience`.
            InvalidInputError: it refuses the token, was not started with `tspo engine`, or with a
            context shorter than `max_context` tokens.
        """
        await self.wait_until_healthy()
        try:
            models = await self.get("/v1/models")
            await self.get("/weight_info")
        except SERVER_ERRORS as error:
            self._refuse_token(error)
            raise InvalidInputError(
                f"{self.url}: was not started with `tspo engine` ({error})"
            ) from error
        context = models["data"][0]["max_model_len"]
        if context < max_context:
            raise InvalidInputError(
                f"{self.url}: was started for {context} tokens, the experiment needs "
                f"{max_context}; use `tspo engine --context {max_context}` or lower "
                "model.max_context"
            )

    async def restore(self, label: str, error: Exception | None) -> None:
        """Wait until the server responds and has the weights of `label`; load them if it has not.

        `error` is what a request failed with, None if its response had the label of other weights.

        Raises:
            RemoteServiceError: it rejects the request itself, does not come back, or cannot load
            the weights.
            InvalidInputError: it refuses the token.
        """
        self._refuse_token(error)
        has_status = isinstance(error, httpx.HTTPStatusError)
        if isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500:
            raise RemoteServiceError(
                f"{self.url}: rejects a request: {error.response.text[:300]}"
            ) from error
        async with self.restoring:
            is_ready = await self.is_alive() and await self.label() == label
            if not is_ready:
                reason = f" ({type(error).__name__})" if error else ""
                self.log(f"engine {self.url} is lost{reason}; waiting for it")
                started = time.monotonic()
                await self.wait_until_healthy()
                if await self.label() != label:
                    await self.hand_over(label)
                seconds, step = time.monotonic() - started, label.rpartition(".")[2]
                self.log(
                    f"engine {self.url} is back after {seconds:.0f} s, with weights of step {step}"
                )
        if is_ready and has_status:
            await asyncio.sleep(RETRY_SECONDS)  # it may be about to exit

    def _refuse_token(self, error: Exception | None) -> None:
        """Raises:
        InvalidInputError: the server did not accept the token.
        """
        if isinstance(error, httpx.HTTPStatusError) and error.response.status_code in (401, 403):
            raise InvalidInputError(
                f"{self.url}: refuses the token; give the one of `tspo engine` in {ENGINE_TOKEN} "
                "or vllm.token_file"
            ) from error

    async def is_alive(self) -> bool:
        """Whether the server responds now and its engine runs."""
        try:
            response = await self.client.get(self.url + "/health", timeout=self.health_timeout)
            response.raise_for_status()
        except SERVER_ERRORS:
            return False
        return True

    async def wait_until_healthy(self) -> None:
        """Wait until the server is alive.

        Raises:
            RemoteServiceError: it is not within `patience`.
        """
        started = time.monotonic()
        while not await self.is_alive():
            if time.monotonic() - started > self.patience:
                raise RemoteServiceError(
                    f"{self.url}: no vLLM server responds, waited {self.patience:g} s "
                    "(vllm.patience); start one with `tspo engine MODEL`, then use --resume"
                )
            await asyncio.sleep(RETRY_SECONDS)

    async def label(self) -> str | None:
        """The label of the server's weights, None while it does not respond."""
        try:
            return str((await self.get("/weight_info"))["weight_version"])
        except SERVER_ERRORS:
            return None

    async def hand_over(self, label: str) -> None:
        """Make the server load the weights of `label`. Starts again if the server is lost.

        Raises:
            RemoteServiceError: it does not come back, cannot load them, or was lost too often.
        """
        for _ in range(TRIES):
            try:
                await self.post_long("/pause?mode=keep")
                await self.post_long(
                    "/collective_rpc",
                    {"method": "tspo_load_files", "args": [str(self.weights_folder(label))]},
                )
                await self.post("/reset_prefix_cache")
                await self.post("/update_weight_version", {"new_version": label})
                await self.post("/resume")
                return
            except httpx.HTTPStatusError as error:
                self._refuse_token(error)
                await asyncio.sleep(RETRY_SECONDS)
                if await self.is_alive():
                    raise RemoteServiceError(
                        f"{self.url}: could not load the weights in {self.weights_folder(label)} "
                        f"({error.response.text[:300]}); the server must see this folder and be "
                        "started with `tspo engine`"
                    ) from error
            except httpx.TransportError as error:
                self.log(
                    f"engine {self.url} is lost ({type(error).__name__}) at a hand-over; waiting "
                    "for it"
                )
            await self.wait_until_healthy()
        raise RemoteServiceError(
            f"{self.url}: was lost {TRIES} times while it loaded weights; see its log"
        )

    async def post_long(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """`post` a request that may take long, with health checks while it runs. They notice a
        server whose machine is gone: then the request fails with ReadTimeout.
        """
        interval = min(HEALTH_CHECK_SECONDS, self.patience)
        response = asyncio.ensure_future(self.post(path, body))
        try:
            while not (await asyncio.wait({response}, timeout=interval))[0]:
                if not await self.is_alive():
                    raise httpx.ReadTimeout(f"{self.url} does not respond")
            return response.result()
        finally:
            response.cancel()

    async def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """The JSON response to `body`, None for an empty one. Raises `SERVER_ERRORS`."""
        response = (await self.client.post(self.url + path, json=body)).raise_for_status()
        return response.json() if response.content else None

    async def get(self, path: str) -> Any:
        """The JSON response. Raises `SERVER_ERRORS`."""
        return (await self.client.get(self.url + path, timeout=30.0)).raise_for_status().json()
