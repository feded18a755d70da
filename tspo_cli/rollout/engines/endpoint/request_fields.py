"""Fields of a request that a server names differently or does not take."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_REFUSAL = re.compile(
    r"unsupported|not support|unknown|unrecogni[sz]ed|unexpected|not permitted|not allowed|invalid"
    r"|deprecated|extra|cannot be|does not accept",
    re.IGNORECASE,
)
_REFUSED_VALUE = re.compile(
    r"must be|should be|cannot both|only one of|out of range", re.IGNORECASE
)
"""The value is the reason. A value of max_tokens is a setting of its own, not left out."""
_BOTH = re.compile(r"\bboth\b|only one", re.IGNORECASE)
_FIELDS = ("max_tokens", "temperature", "top_p", "top_k", "stop", "seed")
_OTHER_NAME = "max_completion_tokens"


@dataclass(frozen=True, slots=True)
class RequestFields:
    """`rename` gives fields another name, `drop` are not sent. `section` of an experiment file has
    both settings: endpoint or judge.
    """

    section: str = "endpoint"
    rename: Mapping[str, str] = field(default_factory=dict)
    drop: tuple[str, ...] = ()

    def apply(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """The body as it is sent."""
        return {
            self.rename.get(name) or name: value
            for name, value in body.items()
            if name not in self.drop
        }

    def hint(self, message: str, body: Mapping[str, Any]) -> str:
        """The setting that helps if the server's `message` refuses a field of `body`, as the end of
        a sentence; else empty.
        """
        named = [name for name in _FIELDS if name in body and _place(name, message) >= 0]
        if not _REFUSAL.search(message):
            refuses_value = _REFUSED_VALUE.search(message) is not None
            named = [name for name in named if refuses_value and name != "max_tokens"]
        if len(named) > 1 and _BOTH.search(message) and "temperature" in named:
            named.remove("temperature")  # the server's own would change the answers most
        if not named:
            return ""
        name = min(named, key=lambda name: _place(name, message))
        if name == "max_tokens" and _OTHER_NAME in message:
            return f"; try --set {self.section}.rename.{name}={_OTHER_NAME}"
        return f"; try --set '{self.section}.drop=[\"{name}\"]'"


def _place(name: str, message: str) -> int:
    """Where the message names a field, or -1."""
    found = re.search(rf"(?<![\w]){name}(?![\w])", message)
    return found.start() if found else -1
