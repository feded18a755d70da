"""One vLLM server as its keeper sees it: is it alive, which weights does it have, and new ones for
it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from tspo_cli.errors import InvalidInputError, RemoteServiceError

RETRY = 1.0  # seconds between questions to a server that is away
WATCH = 60.0  # seconds without an answer after which a server is asked whether it is alive
TRIES = 5  # of one request, before something else than a restart must be wrong
LOST = (httpx.TransportError, httpx.HTTPStatusError)


class ServerControl:
    """Health, label and weights of the server at `url`.

    A label names weights: server and tokens carry it, so that nothing sampled under other weights
    is taken for ours.

    Args:
        patience: seconds to wait for it while it is away.
        place: the folder with the weights of a label.
        tell: takes a message for the person who runs this.
    """

    def __init__(
        self,
        url: str,
        client: httpx.AsyncClient,
        *,
        patience: float,
        place: Callable[[str], Path],
        tell: Callable[[str], None],
    ) -> None:
        self.url, self.client, self.patience, self.place, self.tell = (
            url,
            client,
            patience,
            place,
            tell,
        )
        self.soon = min(30.0, max(1.0, patience))
        self.restoring = asyncio.Lock()

    async def check(self, max_context: int) -> None:
        """Refuse a server that this run could not use.

        Raises:
            RemoteServiceError: it does not answer within `patience`.
            InvalidInputError: it was started otherwise than with `tspo engine`, or for fewer than
            `max_context` tokens.
        """
        await self.healthy()
        try:
            models = await self.get("/v1/models")
            await self.get("/weight_info")
        except LOST as error:
            raise InvalidInputError(
                f"{self.url}: is not a server started with `tspo engine` ({error})"
            ) from error
        room = models["data"][0]["max_model_len"]
        if room < max_context:
            raise InvalidInputError(
                f"{self.url}: was started for {room} tokens, the experiment needs {max_context}; "
                f"use `tspo engine --context {max_context}` or lower model.max_context"
            )

    async def restore(self, label: str, error: Exception | None) -> None:
        """After `error`, or an answer with other labels: wait until the server answers, and hand it
        the weights of `label` again unless it has them.

        Raises:
            RemoteServiceError: it refuses the request itself, stays away, or cannot load them.
        """
        refused = isinstance(error, httpx.HTTPStatusError)
        if isinstance(error, httpx.HTTPStatusError) and error.response.status_code < 500:
            raise RemoteServiceError(
                f"{self.url}: refuses a request: {error.response.text[:300]}"
            ) from error
        async with self.restoring:
            there = await self.alive() and await self.label() == label
            if not there:
                why = f" ({type(error).__name__})" if error else ""
                self.tell(f"engine {self.url} is lost{why}; waiting for it")
                started = time.monotonic()
                await self.healthy()
                if await self.label() != label:
                    await self.hand_over(label)
                seconds, step = time.monotonic() - started, label.rpartition(".")[2]
                self.tell(
                    f"engine {self.url} is back after {seconds:.0f} s, with weights of step {step}"
                )
        if there and refused:
            await asyncio.sleep(RETRY)  # it may be dying

    async def alive(self) -> bool:
        """Whether it answers now, and its engine below it runs."""
        try:
            (await self.client.get(self.url + "/health", timeout=self.soon)).raise_for_status()
        except LOST:
            return False
        return True

    async def healthy(self) -> None:
        """Wait until it is alive.

        Raises:
            RemoteServiceError: it was not within `patience`.
        """
        started = time.monotonic()
        while not await self.alive():
            if time.monotonic() - started > self.patience:
                raise RemoteServiceError(
                    f"{self.url}: no vLLM server answers, waited {self.patience:g} s "
                    "(vllm.patience); start one with "
                    "`tspo engine MODEL`, then use --resume"
                )
            await asyncio.sleep(RETRY)

    async def label(self) -> str | None:
        """The label of its weights, None while it does not answer."""
        try:
            return str((await self.get("/weight_info"))["weight_version"])
        except LOST:
            return None

    async def hand_over(self, label: str) -> None:
        """Have it load the weights of `label`, from the start again whenever it is lost meanwhile.

        Raises:
            RemoteServiceError: it stayed away, cannot load them, or was lost too often.
        """
        for _ in range(TRIES):
            try:
                await self.ask("/pause?mode=keep")
                await self.ask(
                    "/collective_rpc",
                    {"method": "tspo_load_files", "args": [str(self.place(label))]},
                )
                await self.post("/reset_prefix_cache")
                await self.post("/update_weight_version", {"new_version": label})
                await self.post("/resume")
                return
            except httpx.HTTPStatusError as error:
                await asyncio.sleep(RETRY)
                if await self.alive():
                    raise RemoteServiceError(
                        f"{self.url}: could not load the weights in {self.place(label)} "
                        f"({error.response.text[:300]}); "
                        "the server must see this folder and be started with `tspo engine`"
                    ) from error
            except httpx.TransportError as error:
                self.tell(
                    f"engine {self.url} is lost ({type(error).__name__}) at a hand-over; waiting "
                    "for it"
                )
            await self.healthy()
        raise RemoteServiceError(
            f"{self.url}: was lost {TRIES} times while it loaded weights; see its log"
        )

    async def ask(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """`post` what may take long. A server that is gone without a word, like its machine, raises
        ReadTimeout.
        """
        asked = asyncio.ensure_future(self.post(path, body))
        try:
            while not (await asyncio.wait({asked}, timeout=min(WATCH, self.patience)))[0]:
                if not await self.alive():
                    raise httpx.ReadTimeout(f"{self.url} does not answer")
            return asked.result()
        finally:
            asked.cancel()

    async def post(self, path: str, body: dict[str, Any] | None = None) -> Any:
        """What it answers to `body`, None for an empty answer. Raises what LOST names."""
        answer = (await self.client.post(self.url + path, json=body)).raise_for_status()
        return answer.json() if answer.content else None

    async def get(self, path: str) -> Any:
        """What it answers. Raises what LOST names."""
        return (await self.client.get(self.url + path, timeout=30.0)).raise_for_status().json()
