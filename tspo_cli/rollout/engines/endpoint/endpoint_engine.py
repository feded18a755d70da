"""The Engine protocol on an OpenAI-compatible server: /v1/completions or /v1/chat/completions."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from tspo_cli.errors import InvalidInputError, RemoteServiceError
from tspo_cli.models.tokenizer_protocol import Tokenizer, decode, encode, start_ids
from tspo_cli.rollout.engines.endpoint.chat_reply import (
    ONLY_FIRST,
    call_text,
    read_reply,
    with_ids,
)
from tspo_cli.rollout.engines.endpoint.endpoint_client import (
    EndpointClient,
    RequestRefusedError,
    UnansweredError,
)
from tspo_cli.rollout.engines.endpoint.served_names import ServedNames
from tspo_cli.rollout.engines.engine_protocol import (
    Completion,
    FinishReason,
    GenerationRequest,
    Sampling,
)
from tspo_cli.rollout.thoughts import hide_thoughts
from tspo_cli.threads import DaemonPool

if TYPE_CHECKING:
    import torch

Message = dict[str, Any]
POLL_SECONDS = 0.05
"""How long a step waits for a response, so that passages that arrive meanwhile are noticed."""
PROMPT_END = 40
"""Characters at the end of a prompt that may contain the opening tag of the model's segment."""


@dataclass(frozen=True, slots=True)
class EndpointOptions:
    """What is requested of a server.

    model: its name on the server. api: completions continues a text; chat answers messages.
    send_ids: the server has the same tokenizer, so that prompts can be sent as token ids
    (completions only). system: system message (chat). concurrency: requests in flight. extra: more
    fields of each request. stop: texts that end a turn beside a request's stop strings, and are no
    part of it. tools: functions that the model may call, as OpenAI's API describes them
    (chat).
    """

    model: str
    api: Literal["completions", "chat"]
    send_ids: bool = False
    system: str = ""
    concurrency: int = 16
    extra: Mapping[str, Any] = field(default_factory=dict)
    stop: Sequence[str] = ()
    tools: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class _Conversation:
    """The messages of a session, and the token ids that the agent loop has for them."""

    messages: tuple[Message, ...]
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Pending:
    """A request in flight. `new_text` is the text that the model continues or answers; `messages`
    is the conversation up to it (chat).
    """

    request: GenerationRequest
    new_text: str
    messages: tuple[Message, ...] = ()


class EndpointEngine:
    """Sends each generation request as one HTTP request. Completions have no log-probabilities. A
    request that the server refuses is a completion with `refused`; one that it does not answer
    while it answers a short one is a completion with `unanswered`.

    With the chat API, prompt and observations are user messages and actions assistant messages. A
    request whose token ids do not continue those of its session starts a new conversation. Servers
    remove stop strings from the end of a response; the engine adds them again. A call of a tool
    becomes part of the action as `<tool_call>{"name", "arguments"}</tool_call>`, and the text after
    it is sent as the tool's message. Further calls get `ONLY_FIRST` as theirs.
    """

    def __init__(
        self, client: EndpointClient, tokenizer: Tokenizer, options: EndpointOptions
    ) -> None:
        self.client, self.tokenizer, self.options = client, tokenizer, options
        self.extra = ({"tools": list(options.tools)} if options.tools else {}) | dict(options.extra)
        self.weight_version, self.owns_weights = 0, True
        self._names = ServedNames(str(self.extra.get("model", options.model)), "the endpoint")
        self._start = tuple(start_ids(tokenizer))
        self._pool = DaemonPool(options.concurrency, "endpoint")
        self._pending: dict[Future[dict[str, Any]], _Pending] = {}
        self._conversations: dict[int, _Conversation] = {}

    def submit(self, request: GenerationRequest) -> None:
        """Queue a request; a thread sends it as soon as fewer than `concurrency` are in flight."""
        if self.options.api == "chat":
            path, pending = "/chat/completions", self._chat(request)
            prompt: dict[str, Any] = {"messages": list(pending.messages)}
        else:
            path, pending = "/completions", _Pending(request, self._prompt_text(request))
            send_ids = self.options.send_ids
            prompt = {"prompt": list(request.token_ids) if send_ids else pending.new_text}
        future = self._pool.submit(self.client.post, path, self._body(request) | prompt)
        self._pending[future] = pending

    def step(self) -> list[Completion]:
        """The requests that finished since the last step.

        Raises:
            RemoteServiceError: the server failed after all retries.
        """
        if not self._pending:
            return []
        done, _ = wait(self._pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
        completions = []
        failure: RemoteServiceError | None = None
        for future in done:
            try:
                completions.append(self._finished(self._pending[future], future))
            except RemoteServiceError as error:
                failure = error
            else:
                del self._pending[future]
        # What arrived together with a failure is returned first; the next step raises.
        if failure is not None and not completions:
            raise failure
        return completions

    def release(self, session: int) -> None:
        """Forget the session and drop its request in flight."""
        self._conversations.pop(session, None)
        futures = [
            future
            for future, pending in self._pending.items()
            if pending.request.session == session
        ]
        for future in futures:
            future.cancel()
            del self._pending[future]

    def load_weights(self, weights: Mapping[str, torch.Tensor] | None, version: int) -> None:
        """Raises InvalidInputError: a server keeps its own weights."""
        raise InvalidInputError("an endpoint takes no weights; train with another engine")

    def different_weight(self, weights: Mapping[str, torch.Tensor]) -> str | None:
        """None: the server does not give its weights."""
        return None

    def sleep(self) -> None:
        """Does nothing: the server manages its memory."""

    def close(self) -> None:
        """Drop requests in flight and close the connections."""
        self._pool.close()
        self.client.close()

    def check_tools(self) -> None:
        """Send one short request with the tools.

        Raises:
            RemoteServiceError: the server refuses it; if the same request without tools is
                accepted, what to do.
        """
        path, body = self._short_request()
        try:
            self.client.post(path, body)
        except RemoteServiceError as error:
            del body["tools"]
            self.client.post(path, body)
            raise RemoteServiceError(
                f"{error}; the server refuses requests with `tools`, which this method calls. "
                "Start vLLM with --enable-auto-tool-choice --tool-call-parser NAME, choose a model "
                "that takes tools, or use another method, such as --method search_r1"
            ) from error

    def _short_request(self) -> tuple[str, dict[str, Any]]:
        """The path and body of a request that every server can answer."""
        text = "Reply with the word ready."
        body = self._body(GenerationRequest(0, (), Sampling(temperature=0.0, max_new_tokens=16)))
        if self.options.api == "chat":
            return "/chat/completions", body | {"messages": [{"role": "user", "content": text}]}
        return "/completions", body | {"prompt": text}

    def _answers_others(self) -> bool:
        path, body = self._short_request()
        try:
            self.client.post(path, body, retries=0)
        except RequestRefusedError:
            return True
        except RemoteServiceError:
            return False
        return True

    def _chat(self, request: GenerationRequest) -> _Pending:
        conversation = self._conversations.get(request.session)
        earlier: tuple[Message, ...] = ()
        if conversation and request.token_ids[: len(conversation.ids)] == conversation.ids:
            earlier = conversation.messages
            text = self._decode(request.token_ids[len(conversation.ids) :]).strip()
        else:
            text = self._prompt_text(request)
            if self.options.system:
                earlier = ({"role": "system", "content": self.options.system},)
        calls = earlier[-1].get("tool_calls") if earlier else None
        if not calls:
            return _Pending(request, text, (*earlier, {"role": "user", "content": text}))
        # A server expects a message of the tool for each call. The first one is executed.
        results: list[Message] = [
            {"role": "tool", "tool_call_id": call["id"], "content": ONLY_FIRST if number else text}
            for number, call in enumerate(calls)
        ]
        return _Pending(request, text, (*earlier, *results))

    def _body(self, request: GenerationRequest) -> dict[str, Any]:
        sampling = request.sampling
        body = {
            "model": self.options.model,
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": request.seed % 2**31,
        }
        # OpenAI's own API has no top_k and no empty `stop`, so they are sent only if they are set.
        # A server cannot tell thoughts: strings that count outside them are not sent.
        stop = [*sampling.stop, *self.options.stop]
        body |= {"stop": stop} if stop else {}
        return body | ({"top_k": sampling.top_k} if sampling.top_k else {}) | self.extra

    def _finished(self, pending: _Pending, future: Future[dict[str, Any]]) -> Completion:
        try:
            return self._completion(pending, future.result())
        except RequestRefusedError as error:
            return self._refused(pending, error.reason, error.hint)
        except UnansweredError as error:
            if not self._answers_others():
                raise
            session = pending.request.session
            return Completion(
                *(session, (), (), "stop", self.weight_version), unanswered=str(error)
            )

    def _refused(self, pending: _Pending, reason: str, hint: str = "") -> Completion:
        return Completion(
            pending.request.session, (), (), "stop", self.weight_version, refused=reason + hint
        )

    def _completion(self, pending: _Pending, response: dict[str, Any]) -> Completion:
        request, is_chat = pending.request, self.options.api == "chat"
        reply = read_reply(response, self.options.api, request.sampling.max_new_tokens)
        if reply.refused:
            return self._refused(pending, reply.refused)
        served_as = self._names.other(response)
        text, reason = end_of_turn(
            reply.text + "".join(map(call_text, reply.calls)),
            reply.finish_reason,
            reply.stop_reason,
            request.sampling.stop,
            pending.new_text[-PROMPT_END:],
            self.options.stop,
            outside=request.sampling.stop_outside,
            opened=request.sampling.opened,
        )
        # vLLM returns the sampled ids if `extra` has return_token_ids.
        if self.options.send_ids and reply.token_ids:
            is_cut = len(text) < len(reply.text)
            ids = self._first_ids(reply.token_ids, len(text)) if is_cut else reply.token_ids
        else:
            ids = tuple(encode(self.tokenizer, text))
            # The end-of-sequence token is not in the response, so `ids` does not end with one.
            reason = "stop" if reason == "eos" else reason
        if is_chat:
            said: Message = {"content": text}
            if reply.calls:
                calls = with_ids(reply.calls, len(pending.messages))
                said = {"content": reply.text or None, "tool_calls": calls}
            messages = (*pending.messages, {"role": "assistant", **said})
            self._conversations[request.session] = _Conversation(
                messages, (*request.token_ids, *ids)
            )
        return Completion(
            *(request.session, ids, (), reason, self.weight_version),
            thought=reply.thought,
            served_as=served_as,
        )

    def _first_ids(self, ids: tuple[int, ...], characters: int) -> tuple[int, ...]:
        """The fewest first ids whose text has so many characters; all if it has fewer."""
        counts = range(len(ids))
        return ids[: bisect_left(counts, characters, key=lambda n: len(self._decode(ids[:n])))]

    def _prompt_text(self, request: GenerationRequest) -> str:
        """A whole prompt as text, without the tokens that the server's tokenizer puts before it."""
        ids, start = request.token_ids, self._start
        return self._decode(ids[len(start) :] if ids[: len(start)] == start else ids)

    def _decode(self, ids: Sequence[int]) -> str:
        return decode(self.tokenizer, ids)


def end_of_turn(
    text: str,
    finish_reason: str,
    stop_reason: object,
    stop: Sequence[str],
    before: str = "",
    others: Sequence[str] = (),
    *,
    outside: Sequence[str] = (),
    opened: bool = False,
) -> tuple[str, FinishReason]:
    """The text up to and including the stop string that ended it, and why it ended.

    Most servers remove the stop string and do not say which one it was. Then it is the one whose
    opening tag is still open in `text` or at the end of the prompt (`before`). A token id, or one
    of the `others`, ends a turn like an end of sequence. The strings of `outside` count outside
    thoughts; those that were sent, too, also in a thought that has no end. `opened`: the prompt
    opened a thought.
    """
    read = {
        string: hide_thoughts(text, opened=opened, ended_only=string in stop)
        if string in outside
        else text
        for string in (*stop, *outside)
    }
    ends = [said.find(string) + len(string) for string, said in read.items() if string in said]
    if ends:
        return text[: min(ends)], "stop"
    if finish_reason == "length":
        return text, "length"
    if isinstance(stop_reason, str) and stop_reason in stop:
        return text + stop_reason, "stop"
    if type(stop_reason) is int or stop_reason in others:
        return text, "eos"
    places = {
        string: (before + read[string]).rfind(_opening(string))
        for string in stop
        if _opening(string) != string
    }
    last = max(places, key=lambda string: places[string], default="")
    if last and places[last] > (before + read[last]).rfind(last):
        return text + last, "stop"
    return text, "eos"


def _opening(stop: str) -> str:
    return stop.replace("</", "<").replace("<|end_", "<|begin_")
