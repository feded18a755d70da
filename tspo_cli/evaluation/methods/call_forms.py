"""The forms in which models write a function call as text."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

MOST_CALLS = 64
"""Calls of one reply that are read. The first counts; the others are only numbered."""
MOST_VALUES = 256
"""JSON values without a mark that are tried in one reply, so that reading stays linear."""
# Qwen, GLM; Llama; Mistral; Qwen Coder; DeepSeek; Kimi; gpt-oss.
# (Each alternative begins with a character: such patterns are searched much faster.)
_MARK = (
    r"<(?:tool_call>|\|(?:python_tag\|>|tool_call_begin\|>|channel\|>commentary to=)|function="
    r"|｜tool▁call▁begin｜>)|\[TOOL_CALLS\]"
)
# JSON that can be a call without a mark: an object with one of a call's keys, or a list of objects.
_JSON = r'\{\s*+"(?:name|type|id|function|arguments|parameters)"'
_MARKS, _OPENING = re.compile(_MARK), re.compile(rf"{_MARK}|{_JSON}|\[\s*+{_JSON}")
_INTENDED = re.compile(r'(?:\[\s*)?\{\s*"name"\s*:\s*"[\w.-]{1,64}"\s*,\s*"(?:arg|param)')
_SPACE = re.compile(r"\s*")
_FUNCTION = re.compile(r"<function=([\w.-]{1,64})>")
_PARAMETER = re.compile(r"<parameter=([\w.-]{1,64})>")
# A name before its arguments, which are JSON.
_NAMED = re.compile(
    r"(?:function<｜tool▁sep｜>|functions\.)?([\w.-]{1,64})(?::\d{1,4})?\s{0,8}"
    r"(?:\[ARGS\]|<｜tool▁sep｜>|<\|tool_call_argument_begin\|>|(?:<\|constrain\|>json)?<\|message\|>"
    r"|(?=\n?```json))\s{0,8}(?:```json\s{0,8})?"
)
_GLM_NAME = re.compile(r"([\w.-]{1,64})\s{0,8}(?=<arg_key>)")
_GLM_KEY = re.compile(r"<arg_key>([\w.-]{1,64})</arg_key>\s{0,8}<arg_value>")
# A turn's end tokens and the blanks around them, read from the end of the reversed text.
_REVERSED_END = re.compile(r"\s*+(?:(?:>\|[a-z_]{1,40}\|<|>s/<)\s*+)*+")
_DECODER = json.JSONDecoder(strict=False)


@dataclass(frozen=True)
class Call:
    """A call that starts at character `start`. A malformed call has no name and no arguments."""

    start: int
    name: str = ""
    arguments: dict[str, Any] | None = None


def without_end_tokens(text: str) -> str:
    """The reply without the tokens that end a turn of the model."""
    ending = _REVERSED_END.match(text[::-1])
    return text[: len(text) - ending.end()] if ending else text


def find_calls(text: str, *, marked_only: bool = False) -> list[Call]:
    """The calls in a reply, in order, `MOST_CALLS` at most.

    Whatever stands behind a call's mark, such as <tool_call>, is a call. Elsewhere, also after
    other words, only JSON with a name and arguments is; with `marked_only` none is.
    """
    opening = _MARKS if marked_only else _OPENING
    calls: list[Call] = []
    position = values = 0
    while len(calls) < MOST_CALLS and (match := opening.search(text, position)):
        start, position = match.span()
        if '"' in match.group():  # JSON; no mark has quotes
            value, end = _decode(text, start)
            position = max(position, end)
            if value is not _BROKEN:
                calls += _from_json(value, start, marked=False)
            elif _INTENDED.match(text, start):
                calls.append(Call(start))
            values += 1
            opening = _MARKS if values == MOST_VALUES else opening
            continue
        body = start if match.group() == "<function=" else _after_space(text, position)
        if text.startswith("<function=", body):
            call, position = _from_function(text, body, start)
            calls.append(call)
            continue
        if glm := _GLM_NAME.match(text, body):
            position = text.find("</tool_call>", body)
            position = len(text) if position < 0 else position
            arguments = _tagged(text[glm.end() : position], _GLM_KEY, "</arg_value>")
            calls.append(Call(start, glm.group(1), arguments) if arguments else Call(start))
            continue
        named = _NAMED.match(text, body)
        value, position = _decode(text, named.end() if named else body)
        if named and value is not _BROKEN:
            value = {"name": named.group(1), "arguments": value}
        calls += [Call(start)] if value is _BROKEN else _from_json(value, start, marked=True)
    return calls[:MOST_CALLS]


_BROKEN = object()


def _decode(text: str, position: int) -> tuple[Any, int]:
    """The JSON value at `position` and its end, or `_BROKEN` and the place where it breaks off."""
    try:
        return _DECODER.raw_decode(text, position)
    except json.JSONDecodeError as error:
        return _BROKEN, max(position, error.pos)
    except RecursionError:
        return _BROKEN, len(text)
    except ValueError:  # a number with too many digits
        return _BROKEN, position


def _after_space(text: str, position: int) -> int:
    space = _SPACE.match(text, position)
    return space.end() if space else position


def _from_json(value: Any, start: int, marked: bool) -> list[Call]:
    calls = []
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, dict) and isinstance(item.get("function"), dict):
            item = item["function"]
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


def _from_function(text: str, position: int, start: int) -> tuple[Call, int]:
    """The call `<function=name>...</function>` at `position`, and where it ends."""
    head = _FUNCTION.match(text, position)
    end = text.find("</function>", position)
    if head is None or end < 0:
        return Call(start), head.end() if head else position + len("<function=")
    body = text[head.end() : end].strip()
    if body.startswith("{"):
        value = _decode(body, 0)[0]
        return Call(start, head.group(1), value) if isinstance(value, dict) else Call(start), end
    return Call(start, head.group(1), _tagged(body, _PARAMETER, "</parameter>")), end


def _tagged(body: str, key: re.Pattern[str], end: str) -> dict[str, Any]:
    """The arguments of a call whose values stand between a tag with the name and `end`."""
    arguments: dict[str, Any] = {}
    position = 0
    while head := key.search(body, position):
        position = body.find(end, head.end())
        if position < 0:
            break
        arguments[head.group(1)] = body[head.end() : position]
    return arguments
