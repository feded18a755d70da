"""The processes of a training watch each other: one that is lost does not leave the others waiting,
and what one is asked or fails of, all learn.

Each shows a sign of life in the store through which they met, twice a second, from a thread: a
process that waits for another in a collective can do nothing else.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

from tspo_cli import console, stopping
from tspo_cli.disk import WriteError, reason
from tspo_cli.errors import TspoError
from tspo_cli.timing import got_further, seconds_since_progress
from tspo_cli.training.core.distributed import (
    FIRST_WORD,
    barrier,
    gather_json,
    is_waiting,
    rank,
    shared_store,
    world_size,
)

PERIOD = 0.5
"""Seconds between two signs of life."""
SILENCE = 40.0
"""Seconds without a sign after which a process counts as lost."""
LONG_WAIT = 60.0
"""Seconds without progress after which it is said who waits for whom."""
SUSPICIOUS_SILENCE = 5.0
"""The same after a connection was closed."""
STORE_PATIENCE = 20.0
"""Seconds that the store may not answer."""
_FAILURE = "tspo/failure"
_ENDED = -1

OnFailure = Callable[[str], None]
"""(cause): write down that the run failed. Called on one process that is left."""


@dataclass(frozen=True, slots=True)
class Sign:
    """What a process shows: a number that grows, the signal it was asked to stop by (0: none),
    seconds since it got further, and whether it waits for the others.
    """

    beat: int
    stop: int
    idle: float
    waits: bool


@dataclass(frozen=True, slots=True)
class _Failure:
    """Which process failed first, of what, and the exit code of all."""

    speaker: int
    cause: str
    code: int


@dataclass
class _Seen:
    """The newest sign of a process, and when it came."""

    sign: Sign
    time: float = field(default_factory=time.monotonic)


class Lookout:
    """This process's view of all."""

    def __init__(self, stall_limit: float, on_failure: OnFailure) -> None:
        self.store = shared_store()
        self.rank, self.processes = rank(), world_size()
        self.stall_limit, self.on_failure = stall_limit, on_failure
        self.silence = SILENCE
        self._beat = 0
        self._named: list[int] = []
        self._next_word = LONG_WAIT
        self._ended = threading.Event()
        self._show()
        barrier()
        self._seen = [_Seen(sign) for sign in self._signs()]
        self._thread = threading.Thread(target=self._run, daemon=True, name="lookout")
        self._thread.start()

    def end(self) -> None:
        """Watch no longer, and let the others know that this process ends."""
        self._ended.set()
        self._thread.join(PERIOD * 4)
        self._beat = _ENDED
        with suppress(RuntimeError):
            self._show()

    def is_first(self, cause: str, code: int) -> bool:
        """Tell the others that this process fails of `cause`, and ends with this exit code, as they
        shall. False if another failed before.
        """
        try:
            return self._agreed_cause(cause, code).speaker == self.rank
        except RuntimeError:  # the store has gone with the process that failed first
            return False

    def wait_for_cause(self) -> None:
        """A connection was closed: whoever closed it is known in a few seconds, and this process
        ends then. Returns if nobody is lost.
        """
        self.silence = SUSPICIOUS_SILENCE
        time.sleep(SUSPICIOUS_SILENCE + STORE_PATIENCE)

    def _agreed_cause(self, cause: str, code: int = 1) -> _Failure:
        """What was named first. Two may find the same cause at once, and one of them says it."""
        own = json.dumps([self.rank, cause, code])
        return _Failure(*json.loads(self.store.compare_set(_FAILURE, "", own)))

    def linger(self) -> None:
        """Under some launchers the first process has the store: the others must read it."""
        if self.rank == 0:
            time.sleep(4 * PERIOD)

    def _show(self) -> None:
        sign = [self._beat, stopping.requested(), seconds_since_progress(), is_waiting()]
        self.store.set(f"tspo/sign/{self.rank}", json.dumps(sign))

    def _signs(self) -> list[Sign]:
        keys = [f"tspo/sign/{number}" for number in range(self.processes)]
        return [Sign(*json.loads(value)) for value in self.store.multi_get(keys)]

    def _run(self) -> None:
        answered = before = time.monotonic()
        while not self._ended.wait(PERIOD):
            now = time.monotonic()
            if now - before > SUSPICIOUS_SILENCE:  # this process itself was stopped
                answered = now
                if seconds_since_progress():
                    got_further()
                for seen in self._seen:
                    seen.time = now
            before = now
            try:
                self._beat += 1
                self._show()
                self._look(now)
                answered = now
            except RuntimeError:
                patience = min(STORE_PATIENCE, self.silence)
                if now - answered > patience and not self._ended.is_set():
                    self._leave(
                        "the process through which all met does not answer: process 0 of "
                        f"{self.processes}, or its launcher, has ended",
                        speaks=True,
                    )

    def _look(self, now: float) -> None:
        if self.store.check([_FAILURE]):
            failure = self._agreed_cause("")
            if failure.speaker == self.rank:  # the main thread, which failed, says it
                return
            self._leave(failure.cause, speaks=False, code=failure.code)
        for seen, sign in zip(self._seen, self._signs(), strict=True):
            if sign != seen.sign:
                seen.sign, seen.time = sign, now
            if sign.stop:
                self._pass_on(sign.stop)
        cause = self._trouble(now)
        if cause:
            failure = self._agreed_cause(cause)
            speaks = failure.speaker == self.rank
            self._leave(failure.cause, speaks=speaks, code=failure.code)
        self._say_who_is_waited_for(now)

    def _say_who_is_waited_for(self, now: float) -> None:
        """Name on stderr who is silent, and who is at work while others wait for long: the first
        process that shows signs says it.
        """
        silent = self._silent(now, FIRST_WORD)
        back = [number for number in self._named if number not in silent]
        new = [number for number in silent if number not in self._named]
        self._named = silent
        idle = min(seen.sign.idle for seen in self._seen)
        busy = [number for number, seen in enumerate(self._seen) if not seen.sign.waits]
        is_long = idle > self._next_word and 0 < len(busy) < self.processes and not silent
        if is_long:
            self._next_word = 2 * idle
        if self.rank != min(number for number in range(self.processes) if number not in silent):
            return
        if back:
            signs = "gives signs" if len(back) == 1 else "give signs"
            console.warn(f"{_names(back, self.processes)} {signs} of life again")
        if new:
            has = "has" if len(new) == 1 else "have"
            console.warn(
                f"{_names(new, self.processes)} {has} given no sign of life for "
                f"{_seconds(FIRST_WORD)} (stopped, or cut off); the run ends after "
                f"{_seconds(self.silence)} without one"
            )
        if is_long:
            limit = f"; the run ends after {_seconds(self.stall_limit)} (train.stall_limit)"
            console.warn(
                f"the others have waited {idle:.0f} seconds for {_names(busy, self.processes)}, "
                f"which got no further{limit if self.stall_limit else ''}"
            )

    def _trouble(self, now: float) -> str:
        """Who is lost, or holds all others up."""
        silent = self._silent(now)
        if silent:
            return (
                f"{_names(silent, self.processes)} gave no sign of life for "
                f"{_seconds(self.silence)}: killed, stopped, or cut off"
            )
        idle = min(seen.sign.idle for seen in self._seen)
        if self.stall_limit and idle > self.stall_limit:
            busy = [number for number, seen in enumerate(self._seen) if not seen.sign.waits]
            who = _names(busy or list(range(self.processes)), self.processes)
            limit = f"{_seconds(self.stall_limit)} (train.stall_limit)"
            return f"nothing got further for {limit}; what is stuck is in {who}"
        return ""

    def _silent(self, now: float, limit: float | None = None) -> list[int]:
        """Who has given no sign for `limit` seconds (None: so long that a process is lost)."""
        least = self.silence if limit is None else limit
        return [
            number
            for number, seen in enumerate(self._seen)
            if number != self.rank and seen.sign.beat != _ENDED and now - seen.time > least
        ]

    def _pass_on(self, number: int) -> None:
        """Give this process the signal that another one got."""
        if not stopping.requested() and callable(signal.getsignal(number)):
            main = threading.main_thread().ident
            if main is not None:
                signal.pthread_kill(main, number)

    def _leave(self, cause: str, *, speaks: bool, code: int = 1) -> None:
        """End this process, whose main thread may wait for a process that is lost."""
        silent = self._silent(time.monotonic())
        left = [number for number in range(self.processes) if number not in silent]
        with suppress(Exception):
            if self.rank == left[0]:
                self.on_failure(cause)
        if speaks:
            console.error(cause)
        self.linger()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _seconds(number: float) -> str:
    return f"{number:g} second{'' if number == 1 else 's'}"


def _names(numbers: list[int], processes: int) -> str:
    listed = ", ".join(str(number) for number in numbers)
    return f"process{'es' * (len(numbers) > 1)} {listed} of {processes}"


@contextmanager
def failing_together() -> Iterator[None]:
    """Work before the training, which may fail on some processes alone: on that of a node without
    the index, or on the first one, which claims the run. All of them end then, with one exit code.
    One says why: the first one as soon as it knows, another one when it alone can.

    Raises:
        SystemExit: a process failed.
        Exception: what this process failed of, if it is alone, or if it is no error of a user.
    """
    failure: Exception | None = None
    try:
        yield
    except Exception as error:
        if world_size() == 1:
            raise
        failure = error
    if world_size() == 1:
        return
    is_known = isinstance(failure, TspoError | OSError)
    code, said = 0, ""
    if failure is not None:
        code = failure.exit_code if isinstance(failure, TspoError) else 1
        said = reason(failure) if isinstance(failure, OSError) else str(failure)
        if rank() == 0 and is_known:
            console.error(said)
    codes = gather_json(code)
    if failure is not None and not is_known:
        raise failure
    failed = [number for number, other in enumerate(codes) if other]
    if failed and rank() == failed[0] and rank() > 0:
        console.error(f"process {rank()} of {world_size()}: {said}")
    if failed:
        raise SystemExit(codes[failed[0]])


@contextmanager
def watched(stall_limit: float, on_failure: OnFailure) -> Iterator[None]:
    """A training. Memory that runs out is an error of one line. Of several processes, the one that
    fails first says why; the others end with it.
    """
    lookout = Lookout(stall_limit, on_failure) if world_size() > 1 else None
    try:
        yield
        if lookout is not None:
            barrier()
    except Exception as error:
        told = _in_one_line(error)
        if lookout is None:
            if told is error:
                raise
            raise told from error
        if _connection_was_closed(error):
            lookout.wait_for_cause()
        code = told.exit_code if isinstance(told, TspoError) else 1
        is_first = lookout.is_first(f"process {lookout.rank} of {lookout.processes}: {told}", code)
        if is_first:  # said before the others end: whoever started them ends this process then
            _say(told)
        lookout.linger()
        raise SystemExit(code) from error
    finally:
        if lookout is not None:
            lookout.end()


def _say(error: Exception) -> None:
    if isinstance(error, TspoError):
        console.error(error)
    elif isinstance(error, WriteError):
        console.error(reason(error))
    else:
        traceback.print_exception(error)


def _in_one_line(error: Exception) -> Exception:
    """`error`, or what it means to the user where memory ran out."""
    text = " ".join(str(error).split())
    is_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
    if not is_memory and "DefaultCPUAllocator" not in text:
        return error
    return TspoError(
        f"memory ran out ({text or 'no details'}); lower train.tokens_per_micro_batch or "
        "rollout.batch_size, or see `tspo plan`; --resume goes on"
    )


def _connection_was_closed(error: Exception) -> bool:
    """True for what a collective raises when another process has gone."""
    if isinstance(error, TspoError) or not isinstance(error, RuntimeError):
        return False
    signs = ("onnection closed", "onnection reset", "gloo", "NCCL", "Broken pipe")
    return isinstance(error, dist.DistBackendError) or any(part in str(error) for part in signs)
