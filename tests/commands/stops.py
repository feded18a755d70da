"""A command gets a signal at a chosen moment. Called in its process before it begins
(`tests.conftest.run_prepared`). When the signal was sent is written to a file.
"""

from __future__ import annotations

import os
import signal
import sys
import time
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


def _send(name: str, stamp: str) -> None:
    with open(stamp, "w") as handle:
        handle.write(str(time.time()))
    os.kill(os.getpid(), signal.Signals[name])
