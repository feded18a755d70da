"""Retrieved passages as they are shown to people: what the model saw, and what was cut off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tspo_cli.retrieval.types import Hit
from tspo_cli.rollout.shown import shown_lengths


def passage_parts(turn: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], str, str]]:
    """The passages of a recorded turn, each with the part of its contents that the model was shown
    and the part that the observation limit cut off.

    Where the observation is not recorded, nothing counts as cut; `is_unknown` says so.
    """
    passages = turn.get("passages") or []
    texts = [Hit(passage["id"], passage["contents"], 0.0).text for passage in passages]
    lengths = shown_lengths(texts, turn.get("feedback") or "")
    for place, (passage, text) in enumerate(zip(passages, texts, strict=True)):
        contents = passage["contents"]
        length = len(text) if lengths is None else lengths[place]
        end = len(contents) - len(text) + length if length or not text else 0
        yield passage, contents[:end], contents[end:]


def is_unknown(turn: Mapping[str, Any]) -> bool:
    """True for passages whose observation is not recorded, so that nobody knows what was cut."""
    return bool(turn.get("passages")) and not (turn.get("feedback") or turn.get("search_error"))


def shortened(text: str, longest: int) -> str:
    """`text`, cut to `longest` characters with a count of all of them."""
    return text if len(text) <= longest else f"{text[:longest]} … ({len(text):,} characters)"
