"""The first node of a launch says in the run directory, which all nodes share, that it lives and
when its training has ended. Nodes that serve stay until then.

RUN/launch/first-node-JOB.json    {"launch": a number of this launch, "beat", "ended"}
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from tspo_cli.disk import atomic_write_text
from tspo_cli.errors import TspoError

SILENCE = 120.0
"""Seconds without a sign after which the first node counts as lost: file systems that nodes share
may be away for a minute.
"""
SILENCE_IN_TRAINING = 600.0
"""The same while this node trains: the processes of a training miss each other sooner, once they
have met, and a training should outlive a file system that is away.
"""
SIGN_SECONDS = 1.0
"""Seconds between two signs of life."""
_PREFIX = "first-node-"


def sign_file(folder: Path, launch: str) -> Path:
    """Where the first node of `launch` shows signs of life."""
    return folder / f"{_PREFIX}{launch}.json"


@contextmanager
def showing_signs_of_life(path: Path) -> Iterator[None]:
    """Say in `path`, a `sign_file`, that this node lives, and at the end of the block that it has
    ended. Files of earlier launches beside it are deleted.
    """
    for old in path.parent.glob(f"{_PREFIX}*.json"):
        old.unlink(missing_ok=True)
    launch, ended = secrets.token_hex(8), threading.Event()

    def show(beat: int) -> None:
        with suppress(OSError):  # a full disk: the training says so, and ends of it
            sign = {"launch": launch, "beat": beat, "ended": ended.is_set()}
            atomic_write_text(path, json.dumps(sign))

    def show_until_the_end() -> None:
        for beat in count():
            show(beat)
            if ended.wait(SIGN_SECONDS):
                return

    showing = threading.Thread(target=show_until_the_end, daemon=True)
    showing.start()
    try:
        yield
    finally:
        ended.set()
        showing.join()
        show(-1)


class FirstNode:
    """What another node sees of the first one.

    Args:
        path: `sign_file`. What lies there now is of an earlier launch.
        host: the first node's address.
        wait: seconds that it may take to start.
    """

    def __init__(self, path: Path, host: str, wait: float) -> None:
        self._path, self._host, self._wait = path, host, wait
        self._seen = b""
        self._seen = self._read()
        self._has_begun, self._time, self._looked = False, time.monotonic(), 0.0

    def has_ended(self, *, in_training: bool = False) -> bool:
        """Whether its training has ended by now.

        Raises:
            TspoError: it gives no sign of life.
        """
        now = time.monotonic()
        if now - self._looked < SIGN_SECONDS:
            return self._says_so
        found, self._looked = self._read(), now
        if found != self._seen:
            self._seen, self._has_begun, self._time = found, True, now
        patience = SILENCE if self._has_begun else self._wait
        if in_training:
            patience = max(self._wait, SILENCE_IN_TRAINING)
        if now - self._time > patience:
            raise TspoError(
                f"{self._host}, the first node, gave no sign of life for {patience:g} s in "
                f"{self._path}: killed, cut off, or started with another --job or run directory"
            )
        return self._says_so

    @property
    def _says_so(self) -> bool:
        return self._has_begun and b'"ended": true' in self._seen

    def _read(self) -> bytes:
        try:
            return self._path.read_bytes()
        except OSError:  # not there yet, or being replaced on a file system of the network
            return self._seen
