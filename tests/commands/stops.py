"""A command gets a signal at a chosen moment. Called in its process before it begins
(`tests.conftest.run_prepared`). When the signal was sent is written to a file.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

WRITES = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir"}


def at_write(folder: str, number: str, name: str, stamp: str) -> None:
    """The signal `name` at the `number`-th file operation below `folder` that writes."""
    left = int(number)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left
        if event not in WRITES or not isinstance(arguments[0], str | os.PathLike):
            return
        if event == "open" and not set("wax+") & set(str(arguments[1] or "")):
            return
        if os.path.abspath(os.fspath(arguments[0])).startswith(folder):
            left -= 1
            if left == 0:
                _send(name, stamp)

    sys.addaudithook(hook)


def when_there(folder: str, pattern: str, name: str, stamp: str) -> None:
    """The signal `name` once a file that matches `pattern` in `folder` has content."""

    def wait() -> None:
        while not any(path.stat().st_size for path in Path(folder).glob(pattern)):
            time.sleep(0.005)
        _send(name, stamp)

    threading.Thread(target=wait, daemon=True).start()


def _send(name: str, stamp: str) -> None:
    with open(stamp, "w") as handle:
        handle.write(str(time.time()))
    os.kill(os.getpid(), signal.Signals[name])
