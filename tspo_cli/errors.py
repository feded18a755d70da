"""Errors with a message for the user, each with its exit code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class TspoError(Exception):
    """A failure with a message for the user: a single line, or one line for each of several
    arguments. Exit code 1.
    """

    exit_code = 1

    def __str__(self) -> str:
        return "\n".join(str(line) for line in self.args)


class SaidError(TspoError):
    """A command that this one started failed, and has printed the line that says why."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"ended with exit code {exit_code}")
        self.exit_code = exit_code


class UsageError(TspoError):
    """The command line is wrong or contradicts itself. Exit code 2."""

    exit_code = 2


class InvalidInputError(TspoError):
    """A configuration or data file is invalid. Exit code 3."""

    exit_code = 3


class MissingResourceError(TspoError):
    """A file, model, index, port or device that the command needs is missing. Exit code 4."""

    exit_code = 4


class RemoteServiceError(TspoError):
    """A remote service failed or did not answer in time. Exit code 5."""

    exit_code = 5


class GateError(TspoError):
    """A result does not meet the limit of the user. Exit code 6."""

    exit_code = 6


@contextmanager
def advising(advice: str) -> Iterator[None]:
    """Within the block, `advice` ends the message of an InvalidInputError: what to do here."""
    try:
        yield
    except InvalidInputError as error:
        raise InvalidInputError(f"{error}; {advice}") from None
