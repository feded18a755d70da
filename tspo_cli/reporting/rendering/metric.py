"""How a score of the items is written: shares in per cent, counts as they are."""

from __future__ import annotations

from dataclasses import dataclass

from tspo_cli.reporting.rendering.table import bounds, number

_NAMES = {"em": "EM", "f1": "F1", "sub_em": "sub-EM"}
_COUNTS = ("searches", "turns", "invalid_turns", "response_tokens", "first_occurrence")


@dataclass(frozen=True, slots=True)
class Metric:
    """A score of the items by its key. Counts have no best value: more searches are neither better
    nor worse.
    """

    key: str

    @property
    def is_count(self) -> bool:
        """True for a number of turns, searches or tokens, False for a share between 0 and 1."""
        return self.key in _COUNTS

    @property
    def name(self) -> str:
        """For people, without its unit."""
        return _NAMES.get(self.key, self.key.replace("_", " "))

    @property
    def heading(self) -> str:
        """The name with its unit."""
        return self.name if self.is_count else f"{self.name} %"

    @property
    def step(self) -> float:
        """The smallest difference that is shown."""
        return 0.01 if self.is_count else 0.001

    def text(self, value: float | None) -> str:
        """A score, empty for None."""
        return number(value, "{:.2f}") if self.is_count else number(value, "{:.1f}", 100)

    def difference(self, value: float | None) -> str:
        """A difference with its sign, in points for shares."""
        return number(value, "{:+.2f}") if self.is_count else number(value, "{:+.1f}", 100)

    def interval(self, low: float | None, high: float | None, *, signed: bool = False) -> str:
        """[low, high] in the unit of the score."""
        form = ("{:+" if signed else "{:") + (".2f}" if self.is_count else ".1f}")
        return bounds(low, high, form, 1 if self.is_count else 100)
