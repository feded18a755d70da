"""Conversations that other tools record for SFT, as demonstrations.

`messages` (OpenAI: roles, tool messages, tool_calls), `conversations` (ShareGPT: from and value),
and `prompt` with `response` (Search-R1: searches and passages in one text). What the assistant said
becomes turns, and what tools, users and <information> blocks said becomes passages, which are not
trained on.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from tspo_cli.console import counted
from tspo_cli.data.corpus.passage_forms import field_names
from tspo_cli.data.formats.record_checks import type_name
from tspo_cli.rollout.protocol import STOP_STRINGS
from tspo_cli.training.core.sequences import ScriptedTurn

_ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
    "function_call": "call",
}
_PROMPTS = ("prompt", "instruction")
_RESPONSES = ("response", "completion", "output")
_OPENING, _BLANKS = re.compile(r"\s*<information>"), re.compile(r"\s*")
_CLOSING = "</information>"
_CALL, _CALL_END = "<tool_call>", "</tool_call>"
_RESULT = ("<information>", _CLOSING), ("<tool_response>", "</tool_response>")
_ENDS = re.compile("|".join(map(re.escape, STOP_STRINGS)))
# What chat templates write at the end of a message.
_END_TOKENS = ("<|im_end|>", "<|endoftext|>", "<|eot_id|>", "</s>")
_REVERSED_END = re.compile(rf"(?:\s|{'|'.join(re.escape(token[::-1]) for token in _END_TOKENS)})*+")
_TEMPLATE_TOKENS = re.compile(r"<\|[\w ]{1,40}\|>|\[/?INST\]|<(?:start|end)_of_turn>")
# Marks of a message that is not trained, in the formats of OpenAI, Axolotl and others.
_UNTRAINED = {"weight": 0, "train": False, "trainable": False, "loss": False}
_ASKED = re.compile(r"\bQuestion:(?=\n*+.)\s*+((?:.(?:(?!<\|).)*+)?)")


class Unreadable(Exception):
    """Why a record is no transcript."""

    def __init__(self, expected: str, got: str, fix: str) -> None:
        super().__init__(expected, got, fix)
        self.expected, self.got, self.fix = expected, got, fix


@dataclass(frozen=True, slots=True)
class Transcript:
    """A conversation as question and turns. `has_system`: it had a system message."""

    question: str
    turns: list[ScriptedTurn]
    has_system: bool


@dataclass(frozen=True, slots=True)
class _Message:
    role: str  # system, user, assistant or tool
    text: str


def is_transcript(record: dict[str, Any]) -> bool:
    """Whether a record is a conversation, by its fields."""
    has_text = any(name in record for name in _RESPONSES)
    return (
        "messages" in record
        or "conversations" in record
        or (has_text and any(name in record for name in (*_PROMPTS, "question")))
    )


def read_transcript(record: dict[str, Any]) -> Transcript:
    """The conversation of a record.

    Raises:
        Unreadable: it cannot be the transcript of a search agent.
    """
    messages = _messages(record)
    has_system = bool(record.get("system")) or any(message.role == "system" for message in messages)
    said = [message for message in messages if message.role != "system"]
    if not said or said[0].role != "user":
        raise Unreadable(
            "a conversation that begins with a question of the user",
            f"a message of {said[0].role}" if said else "no messages",
            "put the user's message first",
        )
    question = record.get("question")
    if not isinstance(question, str) or not question.strip():
        question = _question(said[0].text)
        if token := _TEMPLATE_TOKENS.search(question):
            raise Unreadable(
                "the question in the user's own words",
                f"a chat template's {token[0]}",
                'give it as "question", or the prompt as a list of messages',
            )
    if not question.strip():
        raise Unreadable("a question", "an empty message", "write the question")
    return Transcript(question.strip(), _turns(said[1:]), has_system)


def _messages(record: dict[str, Any]) -> list[_Message]:
    for name, role, text in (("messages", "role", "content"), ("conversations", "from", "value")):
        if name in record:
            return _listed(record[name], name, role, text)
    prompt = next((record[name] for name in (*_PROMPTS, "question") if name in record), None)
    response = next(record[name] for name in _RESPONSES if name in record)
    if record.get("history"):
        raise Unreadable(
            "one question in a record", '"history"', "leave the record out: earlier turns are lost"
        )
    if isinstance(prompt, str):
        more = record.get("input")  # Alpaca: what the instruction is about
        if isinstance(more, str) and more.strip():
            prompt = f"{prompt.rstrip()}\n{more.strip()}"
        asked = [_Message("user", prompt)]
    else:
        asked = _listed(prompt, "prompt", "role", "content")
    if isinstance(response, list):
        return [*asked, *_listed(response, "response", "role", "content")]
    if not isinstance(response, str) or not response.strip():
        raise Unreadable('"response" to hold text', type_name(response), "write the response")
    return [*asked, _Message("assistant", response)]


def _listed(entries: Any, name: str, role_name: str, text_name: str) -> list[_Message]:
    if not isinstance(entries, list) or not entries:
        got = "an empty list" if entries == [] else type_name(entries)
        raise Unreadable(f'"{name}" to be a list of messages', got, "write one")
    messages = []
    for place, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict):
            raise Unreadable(
                f"message {place} to be an object", type_name(entry), f"give it a {role_name}"
            )
        given = entry.get(role_name, entry.get("role"))
        role = _ROLES.get(given) if isinstance(given, str) else None
        if role is None:
            raise Unreadable(
                f"message {place} to have a {role_name} of {', '.join(_ROLES)}",
                repr(given) if given is not None else f"fields {field_names(entry)}",
                "name who speaks",
            )
        text = _text(entry.get(text_name, entry.get("content")), place)
        if role in ("assistant", "call"):
            _refuse_untrained(entry, place)
            text, role = _spoken(entry, text, place, is_call=role == "call"), "assistant"
        messages.append(_Message(role, text))
    return messages


def _refuse_untrained(entry: dict[str, Any], place: int) -> None:
    """All that the assistant says is trained, so a mark that says otherwise cannot be kept."""
    for name, value in _UNTRAINED.items():
        if name in entry and entry[name] == value:
            raise Unreadable(
                f"message {place} to be trained, as all of the assistant",
                f'"{name}": {json.dumps(entry[name])}',
                "remove the mark, or leave the conversation out",
            )


def _text(content: Any, place: int) -> str:
    """The text of a message, which may be a list of parts."""
    if content is None:
        return ""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else part for part in content]
        texts = [part for part in parts if isinstance(part, str)]
        if len(texts) == len(parts):
            return "".join(texts)
    if not isinstance(content, str):
        raise Unreadable(f"message {place} to hold text", type_name(content), "write text alone")
    return content


def _spoken(entry: dict[str, Any], text: str, place: int, *, is_call: bool) -> str:
    """What the assistant said, with its reasoning in <think> and its call in <search>."""
    thought = entry.get("reasoning_content")
    if isinstance(thought, str) and thought.strip() and "<think>" not in text:
        text = f"<think> {thought.strip()} </think> {text}".strip()
    if is_call:
        return f"<search> {_query(text, place)} </search>"
    old_form = entry.get("function_call")
    calls = entry.get("tool_calls") or ([] if old_form is None else [old_form])
    if not calls:
        return _with_written_call(text, place)
    if not isinstance(calls, list) or len(calls) != 1 or not isinstance(calls[0], dict):
        count = counted(len(calls), "call") if isinstance(calls, list) else type_name(calls)
        raise _not_one_search(place, count)
    return _with_search(text, _query(calls[0].get("function", calls[0]), place))


def _with_written_call(text: str, place: int) -> str:
    """A message whose text has its call, as the chat templates of Hermes and Qwen write it."""
    thought, closing, said = text.rpartition("</think>")
    before, opening, call = said.partition(_CALL)
    if not opening:
        return text
    call, _, after = call.partition(_CALL_END)
    if _match_end(_REVERSED_END, after[::-1], 0) < len(after):
        raise _not_one_search(
            place, f"{said.count(_CALL)} calls" if _CALL in after else "words after its call"
        )
    call = call[: len(call) - _match_end(_REVERSED_END, call[::-1], 0)]
    return _with_search(f"{thought}{closing}{before}", _query(call, place))


def _not_one_search(place: int, got: str) -> Unreadable:
    return Unreadable(f"one search in message {place}", got, "split or remove the message")


def _with_search(text: str, query: str) -> str:
    if text.strip() and "<think>" not in text:
        text = f"<think> {text.strip()} </think>"
    return f"{text.strip()} <search> {query} </search>".strip()


def _query(call: Any, place: int) -> str:
    """The query of a function call: its only text, or the one called query."""
    arguments = _parsed(call)
    if isinstance(arguments, list) and len(arguments) == 1:
        arguments = arguments[0]
    if isinstance(arguments, dict):
        names = [name for name in ("arguments", "parameters") if name in arguments]
        arguments = _parsed(arguments[names[0]]) if names else arguments
    values = arguments if isinstance(arguments, dict) else {}
    value = values.get("query", values.get("queries"))
    if value is None:
        texts = [value for value in values.values() if isinstance(value, str)]
        value = texts[0] if len(texts) == 1 else None
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str) or not value.strip():
        raise Unreadable(
            f"the call of message {place} to have one query",
            f"arguments {field_names(values)}",
            "remove the conversation, or name its argument query",
        )
    return value.strip()


def _parsed(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return None


def _question(text: str) -> str:
    """The question of a prompt: what follows its last "Question:", else all of it."""
    asked = _ASKED.findall(text)
    return str(asked[-1]).rstrip() if asked else text.strip()


def _turns(messages: list[_Message]) -> list[ScriptedTurn]:
    turns: list[ScriptedTurn] = []
    place = 0
    while place < len(messages):
        message = messages[place]
        place += 1
        if message.role != "assistant":
            raise Unreadable(
                "a search before every message of a tool or user after the question",
                f"a message of {message.role} without one",
                "keep one question in a conversation",
            )
        turns += _split(message.text)
        if turns and turns[-1].shown is None and _is_search(turns[-1].text):
            after = messages[place] if place < len(messages) else None
            if after is None or after.role == "assistant":
                raise Unreadable(
                    "passages after every search",
                    "an assistant's message" if after else "the end of the conversation",
                    "add the message with what the search returned",
                )
            turns[-1] = ScriptedTurn(turns[-1].text, shown=_shown(after.text))
            place += 1
    # A model that calls functions answers without tags.
    if turns and not _ENDS.search(turns[-1].text) and turns[-1].text.strip():
        turns[-1] = ScriptedTurn(_as_answer(turns[-1].text))
    if not turns:
        raise Unreadable("an answer of the assistant", "none", "add it")
    return turns


def _split(text: str) -> list[ScriptedTurn]:
    """The turns in one message, which may hold searches with their <information>."""
    turns, start = [], 0
    end = len(text) - _match_end(_REVERSED_END, text[::-1], 0)
    last_closing = text.rfind(_CLOSING)
    while ending := _ENDS.search(text, start):
        turn = text[start : ending.end()].strip()
        start, shown = ending.end(), None
        if (opening := _OPENING.match(text, start)) and opening.end() <= last_closing:
            closing = text.index(_CLOSING, opening.end())
            shown = text[opening.end() : closing]
            start = _match_end(_BLANKS, text, closing + len(_CLOSING))
        turns.append(ScriptedTurn(turn, shown=shown))
        if start >= end:
            return turns
        if shown is None and _is_search(turn):
            raise Unreadable(
                "<information> after every search that does not end its message",
                repr(text[start : start + 1000].strip()[:40]),
                "add what the search returned",
            )
    rest = text[start:end].strip()
    return [*turns, ScriptedTurn(rest)] if rest or not turns else turns


def _match_end(pattern: re.Pattern[str], text: str, place: int) -> int:
    """Where a match at this place ends, the place itself without one."""
    found = pattern.match(text, place)
    return found.end() if found is not None else place


def _is_search(text: str) -> bool:
    return text.endswith("</search>")


def _shown(text: str) -> str:
    """The passages of a message, without the tags around them."""
    inner = text.strip()
    for opening, closing in _RESULT:
        if inner.startswith(opening) and inner.endswith(closing):
            inner = inner.removeprefix(opening).removesuffix(closing)
            return inner if closing == _CLOSING else inner.strip()
    return inner


def _as_answer(text: str) -> str:
    thought, closing, answer = text.rpartition("</think>")
    return f"{thought}{closing} <answer> {answer.strip()} </answer>".strip()
