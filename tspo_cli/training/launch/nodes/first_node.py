"""The first node of a launch says in the run directory, which all nodes share, that it lives, when
its training has ended, and why. Nodes that serve stay until then.

RUN/launch/first-node-JOB.json    {"launch": a number of this launch, "beat", "ended", "code",
                                   "reason", "at"}; the last three once it has ended
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from tspo_cli.console import say, warn
from tspo_cli.disk import atomic_write_text
from tspo_cli.errors import TspoError
from tspo_cli.text.secrets import without_secrets

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
FIRST_WORD = 10.0
"""Seconds without a sign after which another node says once that it waits for the first one."""
_PREFIX = "first-node-"


def sign_file(folder: Path, launch: str) -> Path:
    """Where the first node of `launch` shows signs of life."""
    return folder / f"{_PREFIX}{launch}.json"


@dataclass(slots=True)
class Ending:
    """How a launch ended on its first node; code 0 and no reason while it goes on."""

    code: int = 0
    reason: str = ""


@contextmanager
def showing_signs_of_life(path: Path) -> Iterator[Ending]:
    """Say in `path`, a `sign_file`, that this node lives, and at the end of the block that it has
    ended: with the code that the block gives, or for an error with the reason. Files of earlier
    launches beside it are deleted.
    """
    for old in path.parent.glob(f"{_PREFIX}*.json"):
        if old != path:  # nodes that start later say how that launch ended
            old.unlink(missing_ok=True)
    launch, ended, ending = secrets.token_hex(8), threading.Event(), Ending()

    def show(beat: int, **more: object) -> None:
        with suppress(OSError):  # a full disk: the training says so, and ends of it
            sign = {"launch": launch, "beat": beat, "ended": ended.is_set(), **more}
            atomic_write_text(path, json.dumps(sign))

    def show_until_the_end() -> None:
        for beat in count():
            show(beat)
            if ended.wait(SIGN_SECONDS):
                return

    showing = threading.Thread(target=show_until_the_end, daemon=True)
    showing.start()
    try:
        yield ending
    except TspoError as error:
        ending.code, ending.reason = error.exit_code, without_secrets(str(error))
        raise
    except SystemExit as error:
        ending.code = error.code if isinstance(error.code, int) else 1
        raise
    finally:
        ended.set()
        showing.join()
        now = datetime.now(UTC).isoformat(" ", "seconds")
        show(-1, code=ending.code, reason=ending.reason, at=now)


class FirstNode:
    """What another node sees of the first one.

    Args:
        path: `sign_file`. What lies there now may be of an earlier launch with the same name.
        host: the first node's address.
        wait: seconds that it may take to start.
    """

    def __init__(self, path: Path, host: str, wait: float) -> None:
        self._path, self._host, self._wait = path, host, wait
        self._seen = b""
        self._seen = self._read()
        self.has_begun, self._time, self._looked = False, time.monotonic(), 0.0
        self._started, self._said = self._time, False
        self._tell_of_earlier_end()

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
            self._seen, self.has_begun, self._time = found, True, now
        patience = SILENCE if self.has_begun else self._wait
        if in_training:
            patience = max(self._wait, SILENCE_IN_TRAINING)
        if now - self._time > patience:
            raise TspoError(
                f"{self._host}, the first node, gave no sign of life for {patience:g} s in "
                f"{self._path}: killed, cut off, or started with another --job or run directory"
            )
        if not (self.has_begun or self._said) and now - self._started > FIRST_WORD:
            self._said = True
            say(
                f"waiting for a sign of life of {self._host}, the first node, for up to "
                f"{patience:g} s; it shows one when it has started with this --job and --out"
            )
        return self._says_so

    @property
    def ending(self) -> str:
        """How it ended, in words."""
        sign = self._sign()
        code, reason = sign.get("code"), sign.get("reason")
        said = f": {reason}" if isinstance(reason, str) and reason else ""
        with_code = f" with exit code {code}" if isinstance(code, int) and code else ""
        return f"{self._host}, the first node, has ended{with_code}{said}"

    def _tell_of_earlier_end(self) -> None:
        """A launch that failed before this node started looks like one of the same name yesterday:
        only a person knows which it was.
        """
        if self._says_failure:
            warn(
                f"{self.ending} ({self._sign().get('at')}). If that was this launch, end this node "
                f"too; it waits for a new start of the first one for up to {self._wait:g} s"
            )
            self._said = True

    @property
    def _says_failure(self) -> bool:
        sign = self._sign()
        return sign.get("ended") is True and sign.get("code") not in (None, 0)

    @property
    def _says_so(self) -> bool:
        return self.has_begun and self._sign().get("ended") is True

    def _sign(self) -> dict[str, Any]:
        with suppress(ValueError):
            sign = json.loads(self._seen or b"{}")
            return sign if isinstance(sign, dict) else {}
        return {}

    def _read(self) -> bytes:
        try:
            return self._path.read_bytes()
        except OSError:  # not there yet, or being replaced on a file system of the network
            return self._seen
