"""The forms in which models write a function call as text."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

_OPENING = re.compile(
    r"<tool_call>\s*(?:(?=<function=))?|<\|python_tag\|>\s*|\[TOOL_CALLS\]\s*|<function=|```json\s*"
)
_FUNCTION = re.compile(r"([^>\s]+)>(.*?)</function>", re.DOTALL)
_PARAMETER = re.compile(r"<parameter=([^>\s]+)>(.*?)</parameter>", re.DOTALL)
_NAMED = re.compile(r"([\w.-]+)\[ARGS\]\s*")
_END = re.compile(r"(?:\s*(?:<\|[a-z_]+\|>|</s>))+\s*$")
_DECODER = json.JSONDecoder(strict=False)


@dataclass(frozen=True)
class Call:
    """A call that starts at character `start`. A malformed call has no name and no arguments."""

    start: int
    name: str = ""
    arguments: dict[str, Any] | None = None


def spoken(text: str) -> str:
    """The reply without its thinking and its end tokens."""
    return _END.sub("", text.rpartition("</think>")[2])


def find_calls(text: str) -> list[Call]:
    """Every call in a reply, in order; JSON without a name counts only behind a call's mark."""
    bare = len(text) - len(text.lstrip())
    if text[bare : bare + 1] in ("{", "["):
        value, end = _decode(text, bare)
        if end is not None and not text[end:].strip():
            return _from_json(value, bare, marked=False)
    calls: list[Call] = []
    position = 0
    while match := _OPENING.search(text, position):
        start, position = match.span()
        if match.group().startswith("<function="):
            function = _FUNCTION.match(text, position)
            calls.append(_from_function(function, start))
            position = function.end() if function else position
            continue
        if text.startswith("<function=", position):
            continue
        marked = not match.group().startswith("```")
        named = _NAMED.match(text, position)
        value, end = _decode(text, named.end() if named else position)
        if end is None:
            calls += [Call(start)] if marked else []
            continue
        position = end
        if named:
            value = {"name": named.group(1), "arguments": value}
        calls += _from_json(value, start, marked)
    return calls


def _decode(text: str, position: int) -> tuple[Any, int | None]:
    try:
        return _DECODER.raw_decode(text, position)
    except (ValueError, RecursionError):
        return None, None


def _from_json(value: Any, start: int, marked: bool) -> list[Call]:
    calls = []
    for item in value if isinstance(value, list) else [value]:
        if not isinstance(item, dict) or not isinstance(item.get("name"), str):
            calls += [Call(start)] if marked else []
            continue
        arguments = item.get("arguments", item.get("parameters"))
        if arguments is None and not marked:
            continue
        if isinstance(arguments, str):
            arguments = _decode(arguments.strip(), 0)[0]
        good = isinstance(arguments, dict)
        calls.append(Call(start, item["name"], arguments) if good else Call(start))
    return calls


def _from_function(match: re.Match[str] | None, start: int) -> Call:
    if match is None:
        return Call(start)
    body = match.group(2).strip()
    if body.startswith("{"):
        value = _decode(body, 0)[0]
        return Call(start, match.group(1), value) if isinstance(value, dict) else Call(start)
    return Call(start, match.group(1), dict(_PARAMETER.findall(body)))
