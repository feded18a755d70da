"""Errors that a person can act on, each with the exit code that the README documents."""

from __future__ import annotations


class TspoError(Exception):
    """A failure with a one-line message for the user. Exit code 1."""

    exit_code = 1


class UsageError(TspoError):
    """The command line contradicts itself. Exit code 2."""

    exit_code = 2


class InvalidInputError(TspoError):
    """A configuration or data file says something it may not say. Exit code 3."""

    exit_code = 3


class MissingResourceError(TspoError):
    """A file, model, index, port or device that the command needs is not there. Exit code 4."""

    exit_code = 4


class RemoteServiceError(TspoError):
    """A remote service failed or did not answer in time. Exit code 5."""

    exit_code = 5


class GateError(TspoError):
    """A result is below the limit that the user set. Exit code 6."""

    exit_code = 6
