"""Where a training that is asked to stop leaves a step: always before the weights change, and all
processes at the same point.

Until the first optimiser update of a step, the learner has the weights of the last whole step, so
that a checkpoint of them can be written at any time. After it the step is finished. A process alone
is interrupted wherever it is. Several agree: where each works for itself (rollouts), every process
that is interrupted waits for the others at the end of that work; between the micro-batches of an
update they ask each other every few seconds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tspo_cli import stopping
from tspo_cli.training.core.distributed import all_max, world_size

AGREE_SECONDS = 5.0
"""About how often the processes ask each other within an update."""


@dataclass
class _Step:
    """The step under way. `batches_left`: micro-batches until the processes agree again."""

    can_be_abandoned: bool = False
    batches_left: int = 1
    batches: int = 1
    since: float = 0.0


_step = _Step()


def agree_to_stop() -> None:
    """Stop all processes where any of them was asked to. All processes call it.

    Raises:
        SystemExit, KeyboardInterrupt: see `stopping.stop_error`; the same on all processes.
    """
    number = int(all_max(float(stopping.requested())))
    if number:
        raise stopping.stop_error(number)


@contextmanager
def may_be_abandoned() -> Iterator[None]:
    """A step: until `weights_change` it is left where a stop is asked for."""
    _step.can_be_abandoned, _step.batches_left, _step.batches = True, 1, 1
    _step.since = time.monotonic()
    try:
        if world_size() == 1:
            stopping.allow()
        yield
    finally:
        weights_change()


def weights_change() -> None:
    """From here on the step under way is finished."""
    _step.can_be_abandoned = False
    if world_size() == 1:
        stopping.defer()


@contextmanager
def local_work() -> Iterator[None]:
    """Work of this process alone, which may be left anywhere. All processes wait for each other at
    its end, and stop there together.
    """
    try:
        with stopping.interruptible():
            yield
    except (SystemExit, KeyboardInterrupt):
        if not stopping.requested() or stopping.is_urgent():
            raise
    agree_to_stop()


def between_batches() -> None:
    """A moment to leave a step of several processes. All of them call it equally often."""
    if world_size() == 1 or not _step.can_be_abandoned:
        return
    _step.batches_left -= 1
    if _step.batches_left:
        return
    agree_to_stop()
    seconds = all_max(time.monotonic() - _step.since) / _step.batches
    _step.batches = _step.batches_left = max(1, math.floor(AGREE_SECONDS / max(seconds, 1e-3)))
    _step.since = time.monotonic()
