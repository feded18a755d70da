"""What the engine knows about each slot of its batch, one array per fact."""

from __future__ import annotations

import numpy as np

FREE, IDLE, RUNNING = 0, 1, 2


class SlotTable:
    """Arrays [slots] and [slots, context] on the host.

    A slot's session has `total` known token ids, of which `cached` have their keys and values in
    the cache. One missing token is a decoding step, more are a prefill.
    """

    def __init__(self, slots: int, context: int) -> None:
        self.slots = slots
        self.state = np.full(slots, FREE, np.int8)
        self.session = np.full(slots, -1, np.int64)
        self.used = np.zeros(slots, np.int64)
        self.cached = np.zeros(slots, np.int64)
        self.total = np.zeros(slots, np.int64)
        self.prompt = np.zeros(slots, np.int64)
        self.limit = np.zeros(slots, np.int64)
        self.rule = np.zeros(slots, np.int64)
        self.version = np.zeros(slots, np.int64)
        self.temperature = np.ones(slots, np.float32)
        self.top_k = np.zeros(slots, np.int64)
        self.top_p = np.ones(slots, np.float32)
        self.ids = np.zeros((slots, context), np.int64)
        self.logprobs = np.zeros((slots, context), np.float32)
        self.uniforms = np.zeros((slots, context), np.float64)
        self._arrays = [array for array in vars(self).values() if isinstance(array, np.ndarray)]

    def find(self, session: int) -> int | None:
        """The slot of a session, None if it has none."""
        found = np.flatnonzero((self.session == session) & (self.state != FREE))
        return int(found[0]) if found.size else None

    def vacant(self) -> int | None:
        """A free slot, else the idle one that was used least recently, else None."""
        free = np.flatnonzero(self.state == FREE)
        if free.size:
            return int(free[0])
        idle = np.flatnonzero(self.state == IDLE)
        return int(idle[self.used[idle].argmin()]) if idle.size else None

    def swap(self, a: int, b: int) -> None:
        """Exchange two slots."""
        for array in self._arrays:
            array[[a, b]] = array[[b, a]]
