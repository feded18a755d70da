"""Output for the user: results on stdout, messages and progress on stderr.

Whatever is printed goes through here and is made harmless for a terminal (`text/printable.py`):
questions, passages, names of files and the errors that quote them come from anywhere. Messages and
errors hide the secrets of URLs. A message that nobody can read any more, for example where a pipe
was closed, is lost; work does not end for it. A result that cannot be written is an error.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager, suppress
from typing import Any, Protocol, TypeVar

from tspo_cli.text.printable import one_line, printable
from tspo_cli.text.secrets import without_secrets
from tspo_cli.text.strict_json import json_text

T = TypeVar("T")
_STYLE = re.compile(r"(\x1b\[[0-9;]*m)")
_quiet = False
STDOUT = "standard output"
"""What errors call it."""
_BETWEEN = 1.0
"""Seconds between two lines of progress, but for the last one."""
_SILENCE = 60.0
"""Seconds after which progress is said even if less than a tenth was done."""
_PATIENCE = 15.0
"""Seconds after which reading that nobody expects to be long is said."""
_AT_ONCE = 256
"""Lines between two looks at the clock."""


def open_streams() -> None:
    """Make the standard streams fit for everything that is printed.

    A closed one leads nowhere: its number would be given to the next file that is opened, and what
    a library writes to stderr would stand in that file. Files and pipes get UTF-8, whatever the
    locale; a terminal keeps its encoding, and what that lacks is shown as an escape.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            nowhere = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            os.set_inheritable(nowhere, True)
        if getattr(sys, name) is None:
            opened = open(number, "w" if number else "r", encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, opened)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            encoding = stream.encoding if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="backslashreplace")


def set_quiet(quiet: bool) -> None:
    """Turn messages and progress off. Results and errors are always printed."""
    global _quiet
    _quiet = quiet


def is_quiet() -> bool:
    """Whether only results, warnings and errors are said."""
    return _quiet


def say(message: str) -> None:
    """Print a message line on stderr."""
    if not _quiet:
        _tell(one_line(without_secrets(message)))


def say_meanwhile(message: str) -> None:
    """Print a line for a person who waits: on a terminal alone. Elsewhere an error stays the only
    line.
    """
    if sys.stderr.isatty():
        say(message)


def warn(message: str) -> None:
    """Print a warning on stderr, also with --quiet."""
    _tell(f"warning: {one_line(without_secrets(message))}")


def error(message: object) -> None:
    """Print the reason of a failure, which is always one line, on stderr."""
    _tell(f"error: {one_line(without_secrets(str(message)))}")


def _tell(line: str) -> None:
    with suppress(OSError):
        print(line, file=sys.stderr, flush=True)


def result(text: str, *, styled: bool = False) -> None:
    """Print a result on stdout. `styled` text keeps its colours and weights: whoever wrote them has
    made the texts between them harmless.
    """
    parts = _STYLE.split(text) if styled else [text]
    _print("".join(part if place % 2 else printable(part) for place, part in enumerate(parts)))


def result_json(value: Any) -> None:
    """Print a result on stdout as JSON."""
    _print(json_text(value, indent=2))


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except OSError as failure:
        failure.filename = STDOUT
        raise


def width() -> int | None:
    """Columns of the terminal that shows results; None where a file or a pipe takes them."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


class Advance(Protocol):
    """Callback of `progress`: advance by `n` units and show `note` after the bar."""

    def __call__(self, n: int = 1, note: str = "") -> None: ...


@contextmanager
def progress(
    label: str, total: int | None, *, bar: bool = True, done: int = 0
) -> Iterator[Advance]:
    """Show the progress of long work: a bar on a terminal, else a line at about every tenth, at
    least one a minute and at most one a second. If the total is unknown, a line whenever the number
    of units has doubled. Without `bar` a terminal shows the counts and the note alone, which then
    says how much time is left. `done` units of the total were done before.
    """
    if _quiet:
        yield lambda n=1, note="": None
    elif sys.stderr.isatty():
        with _live(label, total, bar, done) as advance:
            yield advance
    else:
        yield _plain_lines(label, total, done=done)


@contextmanager
def _live(label: str, total: int | None, bar: bool, done: int) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        *((BarColumn(),) if bar else ()),
        MofNCompleteColumn(),
        *((TimeRemainingColumn(),) if bar else ()),
        TextColumn("{task.fields[note]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True)) as live:
        task = live.add_task(one_line(label), total=total, completed=done, note="")

        def advance(n: int = 1, note: str = "") -> None:
            live.update(task, advance=n, note=one_line(note))

        yield advance


def _plain_lines(
    label: str,
    total: int | None,
    clock: Callable[[], float] = time.monotonic,
    *,
    done: int = 0,
) -> Advance:
    tenth = 1_000 if total is None else max(1, total // 10)
    due = (done // tenth + 1) * tenth
    said = clock()

    def advance(n: int = 1, note: str = "") -> None:
        nonlocal done, due, said
        done += n
        least = _BETWEEN if done >= due else _SILENCE
        if n and (done == total or clock() - said >= least):
            said = clock()
            of = f"/{total}" if total is not None else ""
            say(f"{label} {done}{of} {note}".rstrip())
            while due <= done:
                due = 2 * due if total is None else due + tenth

    return advance


def now_and_then(
    label: str, total: int, clock: Callable[[], float] = time.monotonic
) -> Callable[[], None]:
    """A callback for every unit of work that is done beside another progress display: it says how
    far the work has come twice a minute, and nothing of work that is shorter.
    """
    done, said = 0, clock()

    def advance() -> None:
        nonlocal done, said
        done += 1
        if clock() - said >= _SILENCE / 2:
            said = clock()
            say(f"{label} {done}/{total}")

    return advance


def patiently(
    items: Iterable[T], label: str, clock: Callable[[], float] = time.monotonic
) -> Iterator[T]:
    """Iterate over `items` and say how many there were, after fifteen seconds and then four times a
    minute; nothing is said of work that is shorter. `label` may be that of a file: `reading q.gz`.
    """
    said = clock()
    for number, item in enumerate(items, start=1):
        yield item
        if not number % _AT_ONCE and clock() - said >= _PATIENCE:
            said = clock()
            say(f"{label}: {number:,} lines so far")


def track(items: Iterable[T], label: str, total: int | None = None) -> Iterator[T]:
    """Iterate over `items` with a progress display."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    with progress(label, total) as advance:
        for item in items:
            yield item
            advance()


def duration(seconds: float) -> str:
    """`1:02:03` or `2:03`."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def byte_size(count: float) -> str:
    """Bytes as a person reads them: `1.5 GiB`."""
    power = min(4, max(1, (max(int(count), 1).bit_length() - 1) // 10))
    return f"{count / 1024**power:.1f} {('KiB', 'MiB', 'GiB', 'TiB')[power - 1]}"


def counted(number: int, noun: str, ending: str = "s") -> str:
    """`1 step`, `2,000 steps`."""
    return f"{number:,} {noun}{'' if number == 1 else ending}"


def agreeing(number: int, one: str, several: str) -> str:
    """`1 passage is left out`, `2 passages are left out`: words that agree with their number."""
    return f"{number:,} {one if number == 1 else several}"


def part_of(number: int, whole: int, noun: str, one: str, several: str) -> str:
    """`1 of 3 cells is left out`, `2 of 3 cells are left out`: the verb agrees with the part."""
    return f"{number:,} of {counted(whole, noun)} {one if number == 1 else several}"
