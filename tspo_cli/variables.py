"""Numbers in environment variables that launchers and clusters set."""

from __future__ import annotations

import os

from tspo_cli.errors import UsageError
from tspo_cli.text.whole_numbers import whole_number

_LAST_PORT = 65535


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


def place_in_launcher() -> tuple[int, int]:
    """(RANK, WORLD_SIZE) of this process; (0, 1) where no launcher set them.

    Raises:
        UsageError: a variable of a launcher has a value that it cannot have.
    """
    size = max(1, number_in("WORLD_SIZE", 1))
    rank = number_in("RANK", 0)
    if size == 1 and rank:
        raise UsageError(
            f"RANK: got {rank}, but WORLD_SIZE does not say of how many processes; start all of "
            "them with torchrun, or unset RANK"
        )
    for name, least, most in (
        ("RANK", 0, size - 1),
        ("LOCAL_RANK", 0, size - 1),
        ("MASTER_PORT", 1, _LAST_PORT),
    ):
        number = number_in(name, least)
        if size > 1 and not least <= number <= most:
            raise UsageError(
                f"{name}: expected a number from {least} to {most} (WORLD_SIZE is {size}), got "
                f"{number}; start all processes with torchrun, or change it"
            )
    return rank, size


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
