"""Thoughts in a reply: <think> blocks, which are neither an answer nor a call."""

from __future__ import annotations

_START, _END = "<think>", "</think>"


def split_thoughts(text: str, *, opened: bool = False) -> tuple[str, str | None]:
    """What a reply says outside its think blocks, and the thought that it did not end.

    The second is None if every thought has its end. `opened`: the prompt ends with <think>, so that
    the reply begins within a thought. An end without a beginning ends a thought that began with the
    reply.
    """
    *ended, last = text.split(_END)
    if opened and not ended:
        return "", text
    said: list[str] = []
    for piece in ended[1:] if opened else ended:
        before, begins, _ = piece.partition(_START)
        if begins:
            said.append(before)
        else:
            said.clear()
    before, begins, thought = last.partition(_START)
    return " ".join([*said, before]), thought if begins else None


def hide_thoughts(text: str, *, opened: bool = False, ended_only: bool = False) -> str:
    """The text with blanks in the place of its thoughts, as `split_thoughts` finds them, so that
    the places of what is said stay. With `ended_only` a thought without an end is shown.
    """
    *ended, last = text.split(_END)
    place, hidden = 0, 0
    said: list[str] = []
    for piece in ended:
        before, begins, thought = piece.partition(_START)
        place += len(piece) + len(_END)
        if begins and not (opened and not hidden):
            said.append(before + " " * len(begins + thought + _END))
        else:
            said.clear()
            hidden = place
    if not ended_only:
        begun = last.find(_START) if ended or not opened else 0
        last = last if begun < 0 else last[:begun] + " " * (len(last) - begun)
    return " " * hidden + "".join(said) + last
