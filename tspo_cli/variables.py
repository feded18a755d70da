"""Numbers in environment variables that launchers and clusters set."""

from __future__ import annotations

import os

from tspo_cli.errors import UsageError


def number_in(variable: str, default: int) -> int:
    """The number in an environment variable, `default` where it is not set or empty.

    Raises:
        UsageError: something else is in it.
    """
    text = os.environ.get(variable, "").strip()
    if not text:
        return default
    if not (text.isascii() and text.isdigit()):
        raise UsageError(
            f"{variable}: expected a whole number, got {text!r}; change it or unset it"
        )
    return int(text)


def default_threads() -> int:
    """CPU threads of a process where train.threads does not say: the first number of
    OMP_NUM_THREADS, which may have one for each level, or 1.

    Raises:
        UsageError: it is no number of threads.
    """
    text = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if not text:
        return 1
    if not (text.isascii() and text.isdigit() and int(text)):
        raise UsageError(
            f"OMP_NUM_THREADS: expected a number of threads, got {text!r}; change it or unset it"
        )
    return int(text)
