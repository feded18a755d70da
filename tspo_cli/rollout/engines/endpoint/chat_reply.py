"""Replies of OpenAI-compatible servers, in the forms that servers send them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

from tspo_cli.console import counted
from tspo_cli.retrieval.remote.read_answer import excerpt
from tspo_cli.text.foreign_json import parse_foreign

BROKEN_OFF = ("content_filter", "safety", "error", "abort")
"""Reasons to finish by which a server withholds a reply, or has not finished it."""
_CUT = ("length", "max_tokens")
_THOUGHTS = ("reasoning", "thinking")
"""Types of the parts of a message that are no part of its text."""

LONGEST_TOKEN = 128
"""Characters of a token; the longest ones of usual vocabularies are runs of blanks."""
ONLY_FIRST = "Only the first call of a message is executed. Send one call at a time."
"""What a model is told of its further calls."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server replied. `text` is that of the model; `calls` are its tool calls as the server
    sent them (chat only). If `refused` is not empty, the server withheld the reply for this reason.
    `thought` is reasoning that the server keeps apart from the text. No answer is read from it.
    """

    text: str = ""
    calls: tuple[Any, ...] = ()
    refused: str = ""
    finish_reason: str = ""
    stop_reason: object = None
    token_ids: tuple[int, ...] = ()
    thought: str = ""


def read_reply(
    response: Mapping[str, Any], api: Literal["completions", "chat"], max_tokens: int
) -> Reply:
    """The first choice of a response. A response from which nothing can be read is refused, and so
    is one that is longer than the `max_tokens` that were asked for can be.
    """
    choices = response.get("choices")
    choice = _first(choices) if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        return Reply(refused=f'expected "choices" in the response, got {_shown(dict(response))}')
    finish_reason = str(choice.get("finish_reason"))
    if finish_reason.lower() in BROKEN_OFF:
        return Reply(refused=f"finish_reason {finish_reason}")
    if error := response.get("error") or choice.get("error"):
        return Reply(refused=f"expected a response without an error, got {_shown(error)}")
    if finish_reason.lower() in _CUT:
        finish_reason = "length"
    message = choice.get("message") if api == "chat" else {}
    # Servers may leave the content of a message out where it is empty.
    if not isinstance(message, dict) or (api == "completions" and "text" not in choice):
        name = "message" if api == "chat" else "text"
        return Reply(refused=f'expected "{name}" in the response, got {_shown(choice)}')
    said = message.get("content") if api == "chat" else choice["text"]
    text = _text(said)
    if text is None:
        return Reply(refused=f"expected text, got {type(said).__name__}")
    if not text and isinstance(refusal := message.get("refusal"), str) and refusal:
        return Reply(refused=f"the model refused: {excerpt(refusal)}")
    calls = message.get("tool_calls")
    function = message.get("function_call")
    if isinstance(function, dict) and not calls:
        text += call_text({"function": function})
    size = len(text) + (len(json.dumps(calls)) if calls else 0)
    if size > LONGEST_TOKEN * max_tokens:
        return Reply(refused=_too_long(f"{size} characters", max_tokens))
    ids = choice.get("token_ids")
    if ids is not None and not (isinstance(ids, list) and all(map(_is_token, ids))):
        return Reply(refused=f"expected token ids, got {_shown(ids)}")
    if ids is not None and len(ids) > max_tokens:
        return Reply(refused=_too_long(f"{len(ids)} tokens", max_tokens))
    return Reply(
        text=text,
        calls=tuple(calls) if isinstance(calls, list) else (),
        finish_reason=finish_reason,
        stop_reason=choice.get("stop_reason"),
        token_ids=tuple(ids or ()),
        thought=_thought(message),
    )


def _first(choices: Sequence[Any]) -> Any:
    """The choice of index 0, wherever it stands; the first where none says so."""
    numbered = (choice for choice in choices if isinstance(choice, dict) and "index" in choice)
    return next((choice for choice in numbered if choice["index"] == 0), choices[0])


def _too_long(size: str, max_tokens: int) -> str:
    return (
        f"the response has {size}, the request allows {counted(max_tokens, 'token')} (max_tokens)"
    )


def _thought(message: Mapping[str, Any]) -> str:
    said = message.get("reasoning_content") or message.get("reasoning")
    return said if isinstance(said, str) else ""


def call_text(call: Any) -> str:
    """A tool call of OpenAI's API as text. Arguments that cannot be read stay a string."""
    function = call.get("function") if isinstance(call, dict) else None
    fields = function if isinstance(function, dict) else {}
    name, arguments = fields.get("name"), fields.get("arguments")
    if isinstance(arguments, str):
        with suppress(ValueError):
            arguments = parse_foreign(arguments)
    content = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>{content}</tool_call>"


def with_ids(calls: Sequence[Any], message: int) -> list[dict[str, Any]]:
    """The tool calls of a message, as they are sent back: one without an id gets that of its place.

    message: the number of the message. Mistral takes ids of nine letters and digits alone.
    """
    sent = []
    for number, call in enumerate(calls):
        fields = call if isinstance(call, dict) else {}
        has_id = isinstance(fields.get("id"), str) and fields["id"]
        sent.append(fields if has_id else fields | {"id": f"c{message:04}{number:04}"})
    return sent


def _is_token(value: Any) -> bool:
    """Tokenizers count in 32 bits."""
    return type(value) is int and 0 <= value < 2**31


def _shown(value: Any) -> str:
    """The beginning of a malformed value, for a message."""
    return excerpt(repr(value))


def _text(content: Any) -> str | None:
    """Text, null as the empty text, or the text parts of a list joined, without those of thoughts;
    None for anything else.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, Sequence):
        return None
    parts = [
        part if isinstance(part, str) else part.get("text", "") if isinstance(part, dict) else None
        for part in content
        if not (isinstance(part, dict) and part.get("type") in _THOUGHTS)
    ]
    if not all(isinstance(part, str) for part in parts):
        return None
    return "".join(map(str, parts))
