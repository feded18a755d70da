"""Waiting for a service that does not answer: with back-off, up to a deadline, not in silence."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from tspo_cli.console import say
from tspo_cli.errors import RemoteServiceError

T = TypeVar("T")

UNTIL_DEADLINE = -1
"""As `retries`: the deadline alone ends the attempts."""
_LONGEST_WAIT = 10.0
LAST_ATTEMPT = 2.0
"""Seconds that every attempt has, and that are kept for one right before the deadline."""
HANGS_AFTER = 10.0
"""Seconds without any answer after which a line says so."""
_NOTICE_AFTER = 2.0
_NOTICE_EVERY = 10.0


class ServiceUnavailableError(RemoteServiceError):
    """A service was asked until the deadline and did not answer. It says nothing about a query."""


class TemporaryError(RemoteServiceError):
    """An attempt that failed for a reason that may pass, after `retry_after` seconds at the
    earliest.
    """

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a caller waits for a service.

    deadline: seconds for all attempts and the waits between them. retries: attempts after the
    first; `UNTIL_DEADLINE` for any number. first_wait: seconds before the second attempt; doubled
    each time, up to ten seconds, with jitter.
    """

    deadline: float
    retries: int = UNTIL_DEADLINE
    first_wait: float = 0.5

    def pause(self, attempt: int, retry_after: float) -> float:
        """Seconds to wait after the failed attempt number `attempt` (from 0): at least what the
        service asks for.
        """
        longest = min(self.first_wait * 2 ** min(attempt, 30), _LONGEST_WAIT)
        return max(longest * random.uniform(0.5, 1.0), retry_after)


@dataclass(frozen=True, slots=True)
class _Pending:
    begun: float
    service: str
    most: float


@dataclass
class Notices:
    """What a person reads while callers wait: one line for all threads, every ten seconds after
    attempts that failed, and one line where nothing at all is answered.
    """

    failing_since: float | None = None
    due: float = 0.0
    spoke: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)
    _pending: dict[int, _Pending] = field(default_factory=dict)
    _began: threading.Event = field(default_factory=threading.Event)
    _watch: threading.Thread | None = None
    _answered: float = 0.0
    _slowest: float = 0.0

    @contextmanager
    def asking(self, service: str, most: float) -> Iterator[None]:
        """While the block waits for an answer of `service`, which it does for `most` seconds with
        all attempts: say once that it waits, if no caller gets an answer for much longer than the
        slowest one took.
        """
        pending = _Pending(time.monotonic(), service, most)
        with self.lock:
            self._pending[id(pending)] = pending
            if self._watch is None:
                self._watch = threading.Thread(target=self._say_what_hangs, daemon=True)
                self._watch.start()
        self._began.set()
        answered = 0.0
        try:
            yield
            answered = time.monotonic()
        finally:
            with self.lock:
                del self._pending[id(pending)]
                self._answered = max(self._answered, answered)
                self._slowest = max(self._slowest, answered - pending.begun)

    def _say_what_hangs(self) -> None:
        while True:
            with self.lock:
                oldest = min(self._pending.values(), key=lambda one: one.begun, default=None)
                if oldest is None:
                    self._began.clear()
                    since = wait = 0.0
                else:
                    since = max(oldest.begun, self._answered)
                    wait = since + max(HANGS_AFTER, 2 * self._slowest) - time.monotonic()
            if oldest is None:
                self._began.wait()
            elif wait > 0:
                threading.Event().wait(wait)
            else:
                self._hangs(oldest, since)
                threading.Event().wait(HANGS_AFTER)

    def _hangs(self, oldest: _Pending, since: float) -> None:
        now = time.monotonic()
        with self.lock:
            if self.spoke or id(oldest) not in self._pending:
                return
            self.failing_since = self.failing_since or since
            self.due, self.spoke = now + _NOTICE_EVERY, True
        say(
            f"{oldest.service}: no answer for {now - since:.0f} s; waiting for it, up to "
            f"{oldest.most:.0f} s"
        )

    def failed(self, error: Exception | str, deadline: float) -> None:
        """An attempt failed; say so if callers have waited for a while."""
        now = time.monotonic()
        with self.lock:
            if self.failing_since is None:
                self.failing_since, self.due = now, now + _NOTICE_AFTER
            if now < self.due:
                return
            self.due, self.spoke = now + _NOTICE_EVERY, True
            waited = now - self.failing_since
        if waited > deadline:  # several requests in turn, each of which gave up
            how_long = f"no right answer for {waited:.0f} s now, each request waits"
        else:
            how_long = f"asked again for {waited:.0f} s now,"
        say(f"{error}; {how_long} up to {deadline:.0f} s")

    def answered(self, service: str) -> None:
        """An attempt succeeded; say so if a line has said that callers wait."""
        with self.lock:
            since, spoke = self.failing_since, self.spoke
            self.failing_since, self.spoke = None, False
        if since is not None and spoke:
            say(f"{service}: answers again after {time.monotonic() - since:.0f} s")


def ask_until_answered(
    ask: Callable[[int, float], T], service: str, patience: Patience, notices: Notices
) -> T:
    """The result of `ask(attempt, end)`, which raises TemporaryError while `service` does not
    answer. `end` is the time (of the monotonic clock) at which everything has to be over.

    Raises:
        ServiceUnavailableError: no answer by the deadline, or after all retries; its cause is the
            last TemporaryError.
    """
    started = time.monotonic()
    end = started + patience.deadline
    last_start = end - min(LAST_ATTEMPT, 0.1 * patience.deadline)
    attempt = 0
    while True:
        try:
            with notices.asking(service, patience.deadline):
                answer = ask(attempt, max(end, time.monotonic() + LAST_ATTEMPT))
        except TemporaryError as error:
            notices.failed(error, patience.deadline)
            now = time.monotonic()
            attempt += 1
            if attempt == patience.retries + 1 or now >= last_start:
                raise ServiceUnavailableError(_given_up(error, attempt, now - started)) from error
            time.sleep(min(patience.pause(attempt - 1, error.retry_after), last_start - now))
        else:
            notices.answered(service)
            return answer


def _given_up(error: TemporaryError, attempts: int, seconds: float) -> str:
    if attempts == 1:
        return f"{error}; start the server, then go on with --resume"
    return (
        f"{error}; waited {seconds:.0f} s ({attempts} attempts); start the server, then go on with "
        "--resume"
    )
