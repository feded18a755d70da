"""Numbers in environment variables that launchers and clusters set."""

from __future__ import annotations

import os

from tspo_cli.errors import UsageError
from tspo_cli.text.whole_numbers import whole_number


def number_in(variable: str, default: int) -> int:
    """The number in an environment variable, `default` where it is not set or empty.

    Raises:
        UsageError: something else is in it.
    """
    text = os.environ.get(variable, "").strip()
    if not text:
        return default
    number = whole_number(text)
    if number is None:
        raise UsageError(
            f"{variable}: expected a whole number, got {text[:40]!r}; change it or unset it"
        )
    return number


def default_threads() -> int:
    """CPU threads of a process where train.threads does not say: the first number of
    OMP_NUM_THREADS, which may have one for each level, or 1.

    Raises:
        UsageError: it is no number of threads.
    """
    text = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if not text:
        return 1
    threads = whole_number(text)
    if not threads:
        raise UsageError(
            f"OMP_NUM_THREADS: expected a number of threads, got {text[:40]!r}; change it or unset "
            "it"
        )
    return threads
