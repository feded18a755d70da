"""Thoughts in a reply: <think> blocks, which are neither an answer nor a call."""

from __future__ import annotations


def split_thoughts(text: str, *, opened: bool = False) -> tuple[str, str | None]:
    """What a reply says outside its think blocks, and the thought that it did not end.

    The second is None if every thought has its end. `opened`: the prompt ends with <think>, so that
    the reply begins within a thought. An end without a beginning ends a thought that began with the
    reply.
    """
    *ended, last = text.split("</think>")
    if opened and not ended:
        return "", text
    said: list[str] = []
    for piece in ended[1:] if opened else ended:
        before, begins, _ = piece.partition("<think>")
        if begins:
            said.append(before)
        else:
            said.clear()
    before, begins, thought = last.partition("<think>")
    return " ".join([*said, before]), thought if begins else None
