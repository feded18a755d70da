"""The forms in which models write a function call as text."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

MOST_CALLS = 64
"""Calls of one reply that are read. The first counts; the others are only numbered."""
MOST_VALUES = 256
"""Values without a mark that are tried in one reply, so that reading stays linear."""
_MOST_ARGUMENTS, _LONGEST_ESCAPED = 64, 1 << 16
"""Arguments of a call in Python's form, and characters of a string with escapes in it."""
# Qwen, GLM; Llama; Mistral; Qwen Coder; DeepSeek, MiniMax; Kimi; gpt-oss, also without the
# <|start|>assistant of the prompt.
# (Each alternative begins with a character, and the next one is looked at before all others: such
# patterns are searched much faster.)
_MARK = (
    r"<(?=[tf|i｜])(?:tool_call>|\|(?:python_(?:tag|start)\|>|tool_call_begin\|>"
    r"|start\|>assistant to=|channel\|>(?:commentary|analysis) to=)|function="
    r"|(?:｜DSML｜)?invoke name=|｜tool▁call▁begin｜>)"
    r"|\[TOOL_CALLS\]|to=(?=functions\.[\w.-]{1,64}\s?<\|channel\|>)"
)
# JSON that can be a call without a mark: an object with one of a call's keys, or a list of objects;
# and Llama's list of calls in Python's form.
_JSON = r'\{\s*+"(?:name|type|id|function|arguments|parameters)"'
_PYTHON = r"""(?P<python>[A-Za-z_][\w.]{0,63}\(\s{0,8}\w{1,64}\s{0,8}=\s{0,8}["'])"""
_MARKS = re.compile(_MARK)
_OPENING = re.compile(rf"{_MARK}|{_JSON}|\[(?=[\s{{A-Za-z_])\s*+(?:{_JSON}|{_PYTHON})")
_INTENDED = re.compile(r'(?:\[\s*)?\{\s*"name"\s*:\s*"[\w.-]{1,64}"\s*,\s*"(?:arg|param)')
_SPACE = re.compile(r"\s*")
# A name before its arguments, which are JSON.
_NAMED = re.compile(
    r"(?:function<｜tool▁sep｜>|functions\.)?([\w.-]{1,64})(?::\d{1,4})?\s{0,8}"
    r"(?:(?:\[CALL_ID\][\w-]{1,64})?\[ARGS\]|<｜tool▁sep｜>|<\|tool_call_argument_begin\|>"
    r"|(?:<\|channel\|>[a-z]{1,16}\s{0,8})?(?:(?:<\|constrain\|>)?[a-z]{1,16}\s{0,8})?<\|message\|>"
    r"|(?=\{|\n?```json))\s{0,8}(?:```json\s{0,8})?"
)
# Calls in Python's form: a name, its arguments by name, and what their values may be beside JSON.
_HEAD = re.compile(r"([A-Za-z_][\w.]{0,63})\(")
_HEADS = re.compile(rf"(?:\[\s*+)?{_HEAD.pattern}")
_KEYWORD = re.compile(r"\s*+([A-Za-z_]\w{0,63})\s{0,8}=\s{0,8}")
_COMMA = re.compile(r"\s*+,\s*+")
_ROUND, _SQUARE = re.compile(r"\s*+\)"), re.compile(r"\s*+\]")
_STRING = re.compile(r""""(?:[^"\\]|\\.)*+"|'(?:[^'\\]|\\.)*+'""", re.DOTALL)
_CONSTANT = re.compile(r"(True|False|None)\b")
_CONSTANTS = {"True": True, "False": False, "None": None}
# What JSON writes otherwise in a string: its bytes, its escapes of plain characters, and quotes.
_NOT_OF_JSON = re.compile(r'\\x([0-9a-fA-F]{2})|(\\[^"\\/bfnrtu])|\\.|"', re.DOTALL)
_GLM_NAME = re.compile(r"([\w.-]{1,64})\s{0,8}(?=<arg_key>)")
_GLM_KEY = re.compile(r"<arg_key>([\w.-]{1,64})</arg_key>\s{0,8}<arg_value>")
# A turn's end tokens and the blanks around them, read from the end of the reversed text.
_REVERSED_END = re.compile(r"\s*+(?:(?:>\|[a-z_]{1,40}\|<|>s/<)\s*+)*+")
_DECODER = json.JSONDecoder(strict=False)


@dataclass(frozen=True)
class _Tags:
    """Tags around a call and its arguments. A parameter is JSON if its second group is `false`."""

    opening: str
    head: re.Pattern[str]
    end: str
    parameter: re.Pattern[str]
    parameter_end: str


def _invoke(mark: str) -> _Tags:
    return _Tags(
        f"<{mark}invoke name=",
        re.compile(rf'<{mark}invoke name="([\w.-]{{1,64}})">'),
        f"</{mark}invoke>",
        re.compile(rf'<{mark}parameter name="([\w.-]{{1,64}})"(?: string="(true|false)")?>'),
        f"</{mark}parameter>",
    )


_TAGS = (
    _Tags(
        "<function=",
        re.compile(r"<function=([\w.-]{1,64})>"),
        "</function>",
        re.compile(r"<parameter=([\w.-]{1,64})>"),
        "</parameter>",
    ),
    _invoke(""),
    _invoke("｜DSML｜"),
)


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
    other words, only JSON with a name and arguments is, and a list of calls in Python's form whose
    first argument is a string; with `marked_only` none is.
    """
    opening = _MARKS if marked_only else _OPENING
    calls: list[Call] = []
    position = values = 0
    while len(calls) < MOST_CALLS and (match := opening.search(text, position)):
        start, position = match.span()
        if match.lastgroup == "python":
            found, position = _from_python(text, start, start)
            calls += found
            values += 1
            opening = _MARKS if values == MOST_VALUES else opening
            continue
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
        is_tag = any(match.group() == tags.opening for tags in _TAGS)
        body = start if is_tag else _after_space(text, position)
        if tags := next((tags for tags in _TAGS if text.startswith(tags.opening, body)), None):
            call, position = _from_tags(tags, text, body, start)
            calls.append(call)
            continue
        if _HEADS.match(text, body):
            found, position = _from_python(text, body, start)
            calls += found
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


def _from_python(text: str, position: int, start: int) -> tuple[list[Call], int]:
    """The calls `[name(key="value"), ...]`, or the one without a list, at `position`, and where
    they end.
    """
    is_list = text[position] == "["
    position = _after_space(text, position + is_list)
    calls: list[Call] = []
    while len(calls) < MOST_CALLS and (head := _HEAD.match(text, position)):
        arguments, position = _keywords(text, head.end())
        if arguments is None:
            return [*calls, Call(start)], position
        calls.append(Call(start, head.group(1).removesuffix(".call"), arguments))
        comma = _COMMA.match(text, position)
        if not (is_list and comma):
            break
        position = comma.end()
    whole = not is_list or len(calls) == MOST_CALLS or _SQUARE.match(text, position)
    return calls if whole else [Call(start)], position


def _keywords(text: str, position: int) -> tuple[dict[str, Any] | None, int]:
    """The arguments `key="value", ...)` at `position`, or None, and where they end or break off."""
    arguments: dict[str, Any] = {}
    read = 0
    while not (end := _ROUND.match(text, position)):
        key = _KEYWORD.match(text, position) if read < _MOST_ARGUMENTS else None
        value, position = _literal(text, key.end()) if key else (_BROKEN, position)
        read += 1
        if key is None or value is _BROKEN:
            return None, position
        arguments[key.group(1)] = value
        if comma := _COMMA.match(text, position):
            position = comma.end()
        elif not _ROUND.match(text, position):
            return None, position
    return arguments, end.end()


def _literal(text: str, position: int) -> tuple[Any, int]:
    """A string or constant of Python, or a JSON value, and its end; `_BROKEN` for anything else."""
    if string := _STRING.match(text, position):
        body = string.group()[1:-1]
        if "\\" not in body:
            return body, string.end()
        if len(body) > _LONGEST_ESCAPED:
            return _BROKEN, string.end()
        return _decode(f'"{_NOT_OF_JSON.sub(_for_json, body)}"', 0)[0], string.end()
    if constant := _CONSTANT.match(text, position):
        return _CONSTANTS[constant.group()], constant.end()
    return _decode(text, position)


def _for_json(found: re.Match[str]) -> str:
    byte, other = found.groups()
    if byte:
        return f"\\u00{byte}"
    if other:
        return "'" if other == "\\'" else f"\\{other}"
    return '\\"' if found.group() == '"' else found.group()


def _from_tags(tags: _Tags, text: str, position: int, start: int) -> tuple[Call, int]:
    """The call between tags at `position`, and where it ends."""
    head = tags.head.match(text, position)
    end = text.find(tags.end, position)
    if head is None or end < 0:
        return Call(start), head.end() if head else position + len(tags.opening)
    body = text[head.end() : end].strip()
    if body.startswith("{"):
        value = _decode(body, 0)[0]
        return Call(start, head.group(1), value) if isinstance(value, dict) else Call(start), end
    return Call(start, head.group(1), _tagged(body, tags.parameter, tags.parameter_end)), end


def _tagged(body: str, key: re.Pattern[str], end: str) -> dict[str, Any]:
    """The arguments of a call whose values stand between a tag with the name and `end`."""
    arguments: dict[str, Any] = {}
    position = 0
    while head := key.search(body, position):
        position = body.find(end, head.end())
        if position < 0:
            break
        value = body[head.end() : position]
        is_json = head.groups()[1:] == ("false",)
        arguments[head.group(1)] = _decode(value.strip(), 0)[0] if is_json else value
    return arguments
