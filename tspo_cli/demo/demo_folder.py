"""The folder of a demo: it has one writer, and a demo that is replaced is kept until the new one is
complete.

OUT/.replaced/    the old demo, while the new one has no page yet
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tspo_cli.console import say
from tspo_cli.demo.demo_commands import ARMS, MARKER, WARM_START, DemoOptions, page_path
from tspo_cli.disk import LOCK_NAME, has_writer, one_writer
from tspo_cli.errors import InvalidInputError, UsageError
from tspo_cli.overwriting import require_own
from tspo_cli.runs import read_json, write_json
from tspo_cli.text.secrets import file_mode
from tspo_cli.text.strict_json import json_text
from tspo_cli.training.launch.claim import RUN_FILES
from tspo_cli.training.launch.replaced_run import (
    OURS,
    can_resume,
    delete_temporaries,
    forget_replaced,
    move_aside,
    replaced,
    settle,
)

_NAMES = (
    *(*OURS, MARKER, "world", "index", WARM_START, *ARMS, "baselines", "logs"),
    page_path(Path()).name,
)
"""All that the folder of a demo has."""
_FILES = re.compile(
    rf"(?:{'|'.join((WARM_START, *ARMS))})/(?:{RUN_FILES})"
    r"|world/(?:corpus\.jsonl|train\.jsonl|test\.jsonl|world\.json)|index/[^/]+\.(?:npy|jsonl?)"
    r"|baselines/\w+/(?:\.new/)?[^/]+\.(?:json|jsonl|jsonl\.gz)|logs/\w+\.log|\.(?:replaced|deleted)/.+"
)
"""Their paths from there."""


def check_folder(out: Path) -> None:
    """Raises InvalidInputError if `out` exists and is not the folder of a demo."""
    if out.exists() and not out.is_dir():
        raise InvalidInputError(f"{out}: exists and is no directory; choose another --out")
    entries = {path.name for path in out.iterdir()} if out.exists() else set()
    if entries - {*OURS} and MARKER not in entries and replaced(out, MARKER) is None:
        raise InvalidInputError(f"{out}: exists and is not a demo; choose another --out")


@contextmanager
def claimed_folder(options: DemoOptions, overwrite: bool) -> Iterator[int]:
    """Make `options.out` the folder of this demo: new, or an earlier demo with the same options,
    and keep other demos out of it until the block ends. Gives the descriptor of the lock.

    A demo that is replaced comes back at once if the new one ends before its warm start. If the new
    one ends later, the same command goes on with it, and the old one is kept until it is complete.

    Raises:
        InvalidInputError: another process runs a demo in the folder, or writes a part of it, or it
            holds something else, or files of the user's beside the demo to replace.
        UsageError: it holds a demo with other options, and `overwrite` is not given.
    """
    out = options.out
    check_folder(out)
    with one_writer(out, "running a demo in it") as lock:
        _make_ready(options, overwrite)
        try:
            yield lock
        except BaseException:
            _keep_one(out)
            raise
        forget_replaced(out)


def _make_ready(options: DemoOptions, overwrite: bool) -> None:
    out = options.out
    _require_no_writer(out)
    delete_temporaries(out)
    goes_on = not overwrite and _holds(options) and can_resume(out / WARM_START)
    if not goes_on:
        settle(out, MARKER, _is_complete)
    if (out / MARKER).exists():
        if overwrite:
            require_own(out, _NAMES, "a demo", _FILES)
            move_aside(out, MARKER)
        elif not _holds(options):
            raise UsageError(
                f"{out}: holds a demo with other settings; add --overwrite or choose another --out"
            )
    record = options.record()
    write_json(out / MARKER, record, file_mode(json_text(record)))


def _require_no_writer(out: Path) -> None:
    """Raises InvalidInputError where another command writes a part of the demo."""
    for folder in sorted({lock.parent for lock in out.rglob(LOCK_NAME)} - {out}):
        if has_writer(folder):
            raise InvalidInputError(
                f"{folder}: another process writes into it; wait for it to end, or choose another "
                "--out"
            )


def _keep_one(out: Path) -> None:
    """Put the old demo back, unless the new one has trained a policy to go on from."""
    if not can_resume(out / WARM_START):
        settle(out, MARKER, _is_complete)
    elif (kept := replaced(out, MARKER)) is not None:
        say(
            f"{out}: the earlier demo is kept in {kept} until this one is complete; the same "
            "command without --overwrite goes on"
        )


def _holds(options: DemoOptions) -> bool:
    marker = options.out / MARKER
    return marker.exists() and read_json(marker) == options.record()


def _is_complete(out: Path) -> bool:
    return page_path(out).exists()
