"""A training of a sweep ends with the sweep, also where that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.conftest import Playground

STARTER = """
import os, signal, sys, threading
from pathlib import Path
from tspo_cli.training.launch import cell_process

if __name__ == "__main__":
    log, moment, *arguments = sys.argv[1:]
    cell_process.PRELOADED = "json"
    context = cell_process.training_context("slow_import")
    if moment == "while it starts":
        threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGKILL)).start()
    process = cell_process.start_training(context, arguments, Path(log))
    process.join()
"""


def holders(file: Path) -> set[int]:
    """The processes that have `file` open."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if os.readlink(link) == str(file):
                found.add(int(link.parts[2]))
    return found


def servers(folder: Path) -> list[Path]:
    """The fork servers that import a module of `folder`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if b"slow_import" in (process / "cmdline").read_bytes():
                found += [process] * (str(folder).encode() in (process / "environ").read_bytes())
    return found


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Path]:
    """A child's log; what still writes it after the test is killed."""
    file = tmp_path.resolve() / "child.log"
    yield file
    for process in holders(file):
        os.kill(process, signal.SIGKILL)


@pytest.mark.parametrize("moment", ["at work", "stopped", "while it starts"])
def test_a_child_ends_with_a_starter_that_is_killed(
    playground: Playground, tmp_path: Path, log: Path, moment: str
) -> None:
    (tmp_path / "slow_import.py").write_text("import time\ntime.sleep(2)\n")
    (tmp_path / "starter.py").write_text(STARTER)
    serve = ("serve", str(playground.index), "--port", "0")
    starter = subprocess.Popen(
        [sys.executable, str(tmp_path / "starter.py"), str(log), moment, *serve],
        env=os.environ | {"PYTHONPATH": f"{Path.cwd()}:{tmp_path}"},
    )
    if moment != "while it starts":
        wait_until(log.exists)
        wait_until(lambda: "http" in log.read_text())
        for process in holders(log) if moment == "stopped" else ():
            os.kill(process, signal.SIGSTOP)
        starter.kill()
    assert starter.wait() == -signal.SIGKILL
    wait_until(lambda: not holders(log) and not servers(tmp_path))
