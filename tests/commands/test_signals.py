"""How a command ends when it is stopped, and what is then said of what it wrote."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tspo_cli.disk import has_writer, one_writer
from tspo_cli.runs import read_status, set_status
from tspo_cli.training.launch.child_processes import child_command

COMMAND = """
import sys, time
from tspo_cli.commands.signals import all_is_in_order, end_on_signals
end_on_signals()
try:
    print("ready", flush=True)
    time.sleep(60)
finally:
    print("in order", flush=True)
    all_is_in_order()
"""


def _ignore_hangups() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def started(prepare: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND], stdout=subprocess.PIPE, text=True, preexec_fn=prepare
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGTERM, 143)]
)
def test_a_signal_ends_a_command_in_order(number: signal.Signals, code: int) -> None:
    process = started()
    process.send_signal(number)
    out, _ = process.communicate(timeout=20)
    assert (process.returncode, out) == (code, "in order\n")


def test_nohup_keeps_a_command_going() -> None:
    process = started(_ignore_hangups)
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)
    process.terminate()
    assert process.wait(20) == 143


def test_a_running_run_without_a_process_was_killed(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    assert has_writer(tmp_path) is None
    with one_writer(tmp_path, "training into it"):
        set_status(tmp_path, "running", 3, 1)
        assert has_writer(tmp_path) is True
        assert read_status(tmp_path)["state"] == "running"
    assert read_status(tmp_path)["state"] == "killed"
    set_status(tmp_path, "stopped", 3, 1)
    assert read_status(tmp_path)["state"] == "stopped"
    set_status(tmp_path, "running", 3, 1)
    for text in ("", f"not-{socket.gethostname()}"):  # an earlier version, another machine
        lock.write_text(text)
        assert has_writer(tmp_path) is None
        assert read_status(tmp_path)["state"] == "running"


def test_a_child_ends_with_its_parent_even_if_that_is_gone_before_it_starts() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    command = child_command(["serve", "none"])
    command[command.index(str(os.getpid()))] = str(process.pid)
    start = time.monotonic()
    assert subprocess.run(command, check=False).returncode in (-signal.SIGTERM, 143)
    assert time.monotonic() - start < 20


TORN = """
import signal, sys
from contextlib import suppress
from tspo_cli.commands import worker
sys.argv = ["worker", "run", "1", "fresh", "settings", sys.argv[1]]

def torn():
    if {interrupts}:
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    raise ImportError("cannot load module more than once per process")

worker.main = torn
worker.run()
"""


@pytest.mark.parametrize("interrupts", [True, False])
def test_an_import_that_a_signal_tore_is_no_error(interrupts: bool) -> None:
    words = [sys.executable, "-c", TORN.format(interrupts=interrupts), str(os.getpid())]
    done = subprocess.run(words, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == (130 if interrupts else 1)
    assert ("Traceback" in done.stderr) is not interrupts
