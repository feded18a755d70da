"""What the fork server of a sweep imports in a test: each of its trainings says a text and ends,
as the environment says. `ends` is called in the process of the sweep before.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from typing import Any

from tspo_cli.training.launch import cell_process

_CODE, _TEXT, _EARLY = "ENDING_CELLS_CODE", "ENDING_CELLS_TEXT", "ENDING_CELLS_EARLY"


def ends(code: str, file: str, early: str = "") -> None:
    """The trainings of this sweep end with `code`, or by signal -`code`, and say what is in
    `file`; if `early`, before they open their log.
    """
    from tspo_cli.commands import sweep

    os.environ |= {_CODE: code, _TEXT: file, _EARLY: early}
    cell_process.PRELOADED, sweep.PRELOAD = "json", __name__


def _end(*_: Any, **__: Any) -> None:
    with open(os.environ[_TEXT], encoding="utf-8") as text:
        sys.stderr.write(text.read())
    sys.stderr.flush()
    code = int(os.environ[_CODE])
    if code < 0:
        os.kill(os.getpid(), -code)
        signal.pause()
    raise SystemExit(code)


if _CODE in os.environ:
    runpy.run_module = _end  # what a training of this server would call
    if os.environ[_EARLY]:
        cell_process._run = _end
