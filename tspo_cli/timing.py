"""Where the seconds of a training step go."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

_last_progress = math.inf


def got_further() -> None:
    """Note that this process makes progress."""
    global _last_progress
    _last_progress = time.monotonic()


def seconds_since_progress() -> float:
    """Seconds since a part of the work began or ended in this process, 0 before the first."""
    return max(0.0, time.monotonic() - _last_progress)


class Clock:
    """Wall seconds by part, summed until `take`."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count the time inside as `name`."""
        started = time.perf_counter()
        got_further()
        try:
            yield
        finally:
            self._seconds[name] += time.perf_counter() - started
            got_further()

    def take(self) -> dict[str, float]:
        """What was counted since the last call."""
        seconds, self._seconds = dict(self._seconds), defaultdict(float)
        return seconds
