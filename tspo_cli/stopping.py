"""A signal that asks the process to stop, and when it is honoured.

A signal interrupts the main thread at once, with the exception that ends the command. Work that
must not be cut in two defers it, and looks itself for a moment to stop.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

BEFORE_IT_BEGAN = "stopped before the training began"


@dataclass
class _State:
    number: int = 0
    deferring: bool = False
    urgent: bool = False
    has_starter: bool = False


_state = _State()


def stop_error(number: int) -> BaseException:
    """What a stop by the signal `number` raises: KeyboardInterrupt for Ctrl-C, else SystemExit with
    the exit code 128 + `number`.
    """
    return KeyboardInterrupt() if number == signal.SIGINT else SystemExit(128 + number)


def stop_number(error: BaseException) -> int:
    """The signal that `error`, made by `stop_error`, stands for; 0 if it stands for none."""
    if isinstance(error, KeyboardInterrupt):
        return int(signal.SIGINT)
    code = error.code if isinstance(error, SystemExit) else None
    return code - 128 if isinstance(code, int) and code > 128 else 0


def stop_name(number: int) -> str:
    """What a person calls the signal `number`."""
    return "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name


def request_stop(number: int, *, urgent: bool = False) -> None:
    """Note in a signal handler that `number` asks to stop, and raise what stops the process, unless
    its work defers that. What is `urgent` is not deferred.
    """
    _state.number = _state.number or number
    _state.urgent = _state.urgent or urgent
    if urgent or not _state.deferring:
        raise stop_error(_state.number)


def expect_from_starter() -> None:
    """Another tspo command started this process. When a signal reaches the whole process group, as
    Ctrl-C does, that command sends SIGTERM too, once.
    """
    _state.has_starter = True


def is_of_starter(number: int) -> bool:
    """True once, for a SIGTERM after a first signal in a process that a tspo command started."""
    if not _state.has_starter or number != signal.SIGTERM:
        return False
    _state.has_starter = False
    return True


def requested() -> int:
    """The signal that asked to stop, 0 without one."""
    return _state.number


def interrupted() -> int:
    """The signal that has cut the work in two, 0 without one. A library that it tore, while it was
    imported say, may hide that with an error of its own.
    """
    return 0 if _state.deferring else _state.number


def is_urgent() -> bool:
    """True after a second signal: nothing may be begun that takes long."""
    return _state.urgent


def defer() -> None:
    """From now on a signal is only noted."""
    _state.deferring = True


def allow() -> None:
    """From now on a signal interrupts at once, also one that came before."""
    _state.deferring = False
    if _state.number:
        raise stop_error(_state.number)


@contextmanager
def deferred() -> Iterator[None]:
    """Within it a signal is only noted: `requested`."""
    before = _state.deferring
    _state.deferring = True
    try:
        yield
    finally:
        _state.deferring = before


@contextmanager
def interruptible() -> Iterator[None]:
    """Within it a signal interrupts at once, also one that came before."""
    before = _state.deferring
    try:
        allow()
        yield
    finally:
        _state.deferring = before
