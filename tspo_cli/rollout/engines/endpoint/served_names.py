"""The model that a server says it answers as, which need not be the one that was asked for."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from tspo_cli.console import warn
from tspo_cli.retrieval.remote.read_answer import excerpt


class ServedNames:
    """What the `model` of responses tells. An alias, a router or a gateway may answer as another
    model than was `asked` for: this is warned of once, and a change from one model to another once.
    `who` answers, in words; `told`: the name that was warned of before. Thread-safe.
    """

    def __init__(self, asked: str, who: str, told: str = "", *, aloud: bool = True) -> None:
        self.asked, self.who, self.last = asked, who, told
        self._told = {"other": bool(told) or not aloud, "change": not aloud}
        self._lock = threading.Lock()

    def other(self, response: Mapping[str, Any]) -> str:
        """The name in a response, as one short line; empty if it has none, or has the one that was
        asked for.
        """
        name = response.get("model")
        name = excerpt(name) if isinstance(name, str) and name != self.asked else name
        if not isinstance(name, str) or not name:
            return ""
        self.heard(name)
        return "" if name == self.asked else name

    def heard(self, name: str) -> None:
        """Warn of a name that a response had, if it is new."""
        with self._lock:
            before, self.last = self.last, name
            if name != self.asked and self._is_first("other"):
                warn(
                    f"{self.who} answers as {name!r}, asked for {self.asked!r}: where that is no "
                    "other name of the same model, the scores are not those of it"
                )
            elif before not in ("", name) and self._is_first("change"):
                warn(
                    f"{self.who} answered as {before!r} and now answers as {name!r}: the scores "
                    "are of several models"
                )

    def _is_first(self, what: str) -> bool:
        first = not self._told[what]
        self._told[what] = True
        return first
