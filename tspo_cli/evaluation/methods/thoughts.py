"""Thoughts in a reply: <think> blocks, which are neither an answer nor a call."""

from __future__ import annotations

import re

_EDGE = re.compile(r"</?think>")


def split_thoughts(text: str, *, opened: bool = False) -> tuple[str, str | None]:
    """What a reply says outside its think blocks, and the thought that it did not end.

    The second is None if every thought has its end. `opened`: the prompt ends with <think>, so that
    the reply begins within a thought. An end without a beginning ends a thought that began with the
    reply.
    """
    said: list[str] = []
    thinking, position = opened, 0
    for edge in _EDGE.finditer(text):
        if edge.group() == "<think>":
            if thinking:
                continue
            said.append(text[position : edge.start()])
        elif not thinking:
            said.clear()
        thinking = edge.group() == "<think>"
        position = edge.end()
    if thinking:
        return " ".join(said), text[position:]
    return " ".join([*said, text[position:]]), None
