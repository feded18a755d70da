"""The state of the engine's batch: one slot per session in the cache, one array per property."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
"""Indices of slots, ascending."""

# A free slot has no session. An idle one has a session without a request.
FREE, IDLE, RUNNING = 0, 1, 2


class SlotTable:
    """Arrays [slots] and [slots, context] on the host.

    state, session: FREE, IDLE or RUNNING, and whose slot it is. used: when its last request
    finished, as a count of finished requests. total, cached: known token ids of the session, and
    how many of them have keys and values in the cache. prompt, limit: tokens before the first
    sampled one, and most tokens of the request. rule: row of `StopRules.kinds`. version: of the
    weights when the request started. ids, logprobs, uniforms: by token position.
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
        self._finished = 0
        self._arrays = [array for array in vars(self).values() if isinstance(array, np.ndarray)]

    def find(self, session: int) -> int | None:
        """The slot of a session, None if it has none."""
        slots = np.flatnonzero((self.session == session) & (self.state != FREE))
        return int(slots[0]) if slots.size else None

    def vacant(self) -> int | None:
        """A free slot, else the idle one that was used least recently, else None."""
        free = np.flatnonzero(self.state == FREE)
        if free.size:
            return int(free[0])
        idle = np.flatnonzero(self.state == IDLE)
        return int(idle[self.used[idle].argmin()]) if idle.size else None

    def decoding(self) -> Rows:
        """Running slots with one token that is not cached: the next decoding step takes them."""
        return np.flatnonzero((self.state == RUNNING) & (self.total - self.cached == 1))

    def prefilling(self) -> Rows:
        """Running slots with more tokens that are not cached."""
        return np.flatnonzero((self.state == RUNNING) & (self.total - self.cached > 1))

    def set_idle(self, slot: int) -> None:
        """The slot's request has finished; its session keeps the cache."""
        self._finished += 1
        self.state[slot], self.used[slot] = IDLE, self._finished

    def swap(self, a: int, b: int) -> None:
        """Exchange two slots."""
        for array in self._arrays:
            array[[a, b]] = array[[b, a]]
