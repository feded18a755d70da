"""The Engine protocol on an OpenAI-compatible server: /v1/completions or /v1/chat/completions."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from tspo_cli.errors import InvalidInputError, RemoteServiceError
from tspo_cli.rollout.engines.endpoint.endpoint_client import EndpointClient, first_choice
from tspo_cli.rollout.engines.engine_protocol import (
    Completion,
    FinishReason,
    GenerationRequest,
    TokenizerLike,
)

if TYPE_CHECKING:
    import torch

Message = dict[str, Any]
_PATIENCE = 0.05
"""Seconds that a step waits for an answer, so that passages which arrive meanwhile are seen."""
_TAIL = 40
"""Characters at the end of a prompt in which the tag that the model is to close may have been
opened.
"""


@dataclass(frozen=True, slots=True)
class _Talk:
    """A conversation as the server sees it, and the ids that the agent loop has for it."""

    messages: tuple[Message, ...]
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Sent:
    """A request under way: `said` is its newest text, `messages` its conversation (chat)."""

    request: GenerationRequest
    said: str
    messages: tuple[Message, ...] = ()


class EndpointEngine:
    """Every request is one HTTP request; `concurrency` of them are under way at once. No
    log-probabilities.

    completions continues the text, sent as token ids where `send_ids` (the server has the same
    tokenizer), else as text. chat sends messages: prompt and observations are the user's, actions
    the assistant's; a history that does not continue the last one is a new conversation. Servers
    cut stop strings off; they are put back. A call of one of `tools` (chat) is part of the action
    as `<tool_call>{"name", "arguments"}</tool_call>`, and what follows it is the tool's message.

    Args:
        extra: further fields of every request.
        tools: functions that the model may call, in the form of OpenAI's API.
    """

    def __init__(
        self,
        client: EndpointClient,
        model: str,
        tokenizer: TokenizerLike,
        *,
        api: Literal["completions", "chat"],
        send_ids: bool,
        system: str = "",
        concurrency: int = 16,
        extra: Mapping[str, Any] | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.client, self.model, self.tokenizer = client, model, tokenizer
        self.api, self.send_ids, self.system = api, send_ids, system
        self.extra = ({"tools": list(tools)} if tools else {}) | dict(extra or {})
        self.weight_version, self.owns_weights = 0, True
        self._pool = ThreadPoolExecutor(concurrency)
        self._running: dict[Future[dict[str, Any]], _Sent] = {}
        self._talks: dict[int, _Talk] = {}

    def submit(self, request: GenerationRequest) -> None:
        """Send a request as soon as one of the connections is free."""
        path, sent, prompt = (
            self._chat(request) if self.api == "chat" else self._completions(request)
        )
        self._running[self._pool.submit(self.client.post, path, self._body(request) | prompt)] = (
            sent
        )

    def step(self) -> list[Completion]:
        """What has been answered since.

        Raises:
            RemoteServiceError: the server failed, after all tries.
        """
        if not self._running:
            return []
        done, _ = wait(self._running, timeout=_PATIENCE, return_when=FIRST_COMPLETED)
        return [self._completion(self._running.pop(future), future.result()) for future in done]

    def release(self, session: int) -> None:
        """Forget the session; the answer to a request under way is dropped."""
        self._talks.pop(session, None)
        for future in [
            one for one, sent in self._running.items() if sent.request.session == session
        ]:
            future.cancel()
            del self._running[future]

    def load_weights(self, weights: Mapping[str, torch.Tensor] | None, version: int) -> None:
        """Raises InvalidInputError: the weights are the server's."""
        raise InvalidInputError("an endpoint takes no weights; train with another engine")

    def sleep(self) -> None:
        """Does nothing: the server manages its memory."""

    def close(self) -> None:
        """Drop requests in flight and close the connections."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.client.close()

    def _completions(self, request: GenerationRequest) -> tuple[str, _Sent, dict[str, Any]]:
        text = self._decode(request.token_ids)
        return (
            "/completions",
            _Sent(request, text),
            {"prompt": list(request.token_ids) if self.send_ids else text},
        )

    def _chat(self, request: GenerationRequest) -> tuple[str, _Sent, dict[str, Any]]:
        talk = self._talks.get(request.session)
        earlier: tuple[Message, ...] = ()
        if talk is not None and request.token_ids[: len(talk.ids)] == talk.ids:
            earlier, said = talk.messages, self._decode(request.token_ids[len(talk.ids) :]).strip()
        else:
            said = self._decode(request.token_ids)
            if self.system:
                earlier = ({"role": "system", "content": self.system},)
        called = earlier[-1].get("tool_calls") if earlier else None
        new = {"role": "tool", "tool_call_id": called[0].get("id")} if called else {"role": "user"}
        messages = (*earlier, new | {"content": said})
        return "/chat/completions", _Sent(request, said, messages), {"messages": list(messages)}

    def _body(self, request: GenerationRequest) -> dict[str, Any]:
        sampling = request.sampling
        body = {
            "model": self.model,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "stop": list(sampling.stop),
            "seed": request.seed % 2**31,
        }
        # Not a field of OpenAI's own API, so only where it is asked for.
        return body | ({"top_k": sampling.top_k} if sampling.top_k else {}) | self.extra

    def _completion(self, sent: _Sent, answer: dict[str, Any]) -> Completion:
        request, choice = sent.request, first_choice(answer, self.client.url)
        message = choice.get("message") or {}
        text = message.get("content") if self.api == "chat" else choice.get("text")
        if not isinstance(text, str | None):
            raise RemoteServiceError(
                f"endpoint {self.client.url}: expected text, got {type(text).__name__}"
            )
        calls = (message.get("tool_calls") or [])[:1] if self.api == "chat" else []
        text = (text or "") + "".join(map(call_text, calls))
        finish, told = str(choice.get("finish_reason")), choice.get("stop_reason")
        whole, reason = end_of_turn(text, finish, told, request.sampling.stop, sent.said[-_TAIL:])
        sampled = choice.get(
            "token_ids"
        )  # vLLM's, where `extra` asks for them with return_token_ids
        if self.send_ids and isinstance(sampled, list) and sampled:
            ids = tuple(int(one) for one in sampled)
        else:
            ids = tuple(self.tokenizer(whole, add_special_tokens=False)["input_ids"])
            # The end-of-sequence token was not told, so the last of these ids is none.
            reason = "stop" if reason == "eos" else reason
        if self.api == "chat":
            own = (
                {"content": message.get("content"), "tool_calls": calls}
                if calls
                else {"content": whole}
            )
            talk = (*sent.messages, {"role": "assistant", **own})
            self._talks[request.session] = _Talk(talk, (*request.token_ids, *ids))
        return Completion(request.session, ids, (), reason, self.weight_version)

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return text


def call_text(call: Any) -> str:
    """A call of OpenAI's API as text; arguments that are no JSON stay the string that they are."""
    given = call.get("function") if isinstance(call, dict) else None
    function = given if isinstance(given, dict) else {}
    name, arguments = function.get("name"), function.get("arguments")
    if isinstance(arguments, str):
        with suppress(json.JSONDecodeError):
            arguments = json.loads(arguments)
    call = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>{call}</tool_call>"


def end_of_turn(
    text: str, finish_reason: str, stop_reason: object, stop: Sequence[str], before: str = ""
) -> tuple[str, FinishReason]:
    """The text up to and with the stop string that ended it, and why it ended.

    Most servers leave the stop string out and do not say which it was: then it is the one whose
    opening tag is still open in `text`, or at the end of the prompt (`before`).
    """
    ends = [text.find(one) + len(one) for one in stop if one in text]
    if ends:
        return text[: min(ends)], "stop"
    if finish_reason == "length":
        return text, "length"
    if isinstance(stop_reason, str) and stop_reason in stop:
        return text + stop_reason, "stop"
    opened = {one: (before + text).rfind(_opening(one)) for one in stop if _opening(one) != one}
    last = max(opened, key=lambda one: opened[one], default="")
    if last and opened[last] > (before + text).rfind(last):
        return text + last, "stop"
    return text, "eos"


def _opening(stop: str) -> str:
    return stop.replace("</", "<").replace("<|end_", "<|begin_")
