"""How full vLLM's KV cache was, and how often it pushed a request out of it. Does not import vLLM.

A request that is pushed out (preempted) computes its whole context again: a cache that is too small
costs time, and nothing else shows it.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_SHARE, _PREEMPTIONS = "vllm:kv_cache_usage_perc", "vllm:num_preemptions_total"
_SAMPLE = re.compile(rf"^({_SHARE}|{_PREEMPTIONS})(?:\{{.*\}})? (\S+)", re.MULTILINE)


@dataclass
class CacheUse:
    """The largest share of a KV cache in use (0 to 1) and the preemptions, until `take`."""

    peak: float | None = None
    preemptions: int = 0
    counted: dict[str, int] = field(default_factory=dict)
    """Preemptions that were counted already, by request or server."""

    def see_scheduler(self, scheduler: Any) -> None:
        """Look at vLLM's scheduler in this process after a step."""
        self._see(scheduler.kv_cache_manager.usage)
        requests = scheduler.requests.items()
        totals = {name: one.num_preemptions for name, one in requests if one.num_preemptions}
        self._count(totals)
        self.counted = totals

    def see_metrics(self, url: str, text: str) -> None:
        """Look at /metrics of the server at `url`, which has a line for each of its engines, and
        none where statistics are off. A line without a number does not count, nor does what was
        before the first look.
        """
        values: dict[str, list[float]] = defaultdict(list)
        for name, text_of_value in _SAMPLE.findall(text):
            if (value := _number(text_of_value)) is not None:
                values[name].append(value)
        if shares := values[_SHARE]:
            self._see(max(shares))
        if counts := values[_PREEMPTIONS]:
            total = {url: int(sum(counts))}
            if url in self.counted:
                self._count(total)
            self.counted |= total

    def take(self) -> dict[str, float]:
        """`kv_cache_peak` and `preemptions` since the last call; without the peak if no share was
        seen, and empty if no preemption was seen either.
        """
        found = {} if self.peak is None else {"kv_cache_peak": self.peak}
        if found or self.preemptions:
            found["preemptions"] = float(self.preemptions)
        self.peak, self.preemptions = None, 0
        return found

    def _see(self, share: float) -> None:
        self.peak = max(self.peak or 0.0, share)

    def _count(self, totals: Mapping[str, int]) -> None:
        """Add what is new. A server that was started again counts from 0."""
        for name, total in totals.items():
            before = self.counted.get(name, 0)
            self.preemptions += total - before if total >= before else total


def _number(text: str) -> float | None:
    """A finite number; None for any other text."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
