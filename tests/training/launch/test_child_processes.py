"""The processes of a training end with it, also those that are stopped or deaf."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import Playground, StartedTspo, run_tspo
from tspo_cli import stopping
from tspo_cli.runs import checkpoint_folders, read_json, read_jsonl
from tspo_cli.training.launch import child_processes
from tspo_cli.training.launch.nodes.cluster import Signals

CHILD = """
import os, time
from tspo_cli.training.launch.child_processes import end_with_parent

end_with_parent(os.getppid())
print("ready", flush=True)
time.sleep(600)
"""
PARENT = f"""
import subprocess, sys, time

child = subprocess.Popen([sys.executable, "-c", {CHILD!r}], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""


def settings(playground: Playground, **more: object) -> list[str]:
    return playground.settings(
        train__steps=500,
        train__processes=2,
        checkpoint__every=2,
        eval__data="[]",
        eval__every=0,
        train__export_model="false",
        **more,
    )


def started(run: Path, *arguments: str) -> StartedTspo:
    """`tspo train` that has made its first step."""
    process = StartedTspo("train", "tiny/tspo", "--out", run, *arguments)
    while not read_jsonl(run / "metrics.jsonl"):
        assert process.poll() is None
        time.sleep(0.05)
    return process


def descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    if not children.exists():
        pytest.skip("needs Linux's list of child processes")
    found = [int(child) for child in children.read_text().split()]
    return found + [below for child in found for below in descendants(child)]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_workers_end_with_their_parent_and_hold_the_lock_until_then(
    playground: Playground, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    endless = settings(playground)
    process = started(run, *endless)
    workers = [pid for pid in descendants(process.pid) if is_alive(pid)]
    assert len(workers) >= 2
    process.kill()
    while process.poll() is None:  # its end lets a stopped worker go on
        os.kill(workers[0], signal.SIGSTOP)
    os.kill(workers[0], signal.SIGSTOP)  # it cannot end, so it still holds the run
    done = run_tspo("train", "tiny/tspo", "--out", run, "--resume", *endless)
    assert done.code == 3
    assert "another process is training into it" in done.err
    os.kill(workers[0], signal.SIGCONT)
    until = time.monotonic() + 20
    while any(is_alive(pid) for pid in workers):
        assert time.monotonic() < until, "workers outlive their parent"
        time.sleep(0.1)
    assert "frame #" not in process.errors.read_text(), "torch's warnings of a store that is gone"


@pytest.mark.parametrize("moves", [True, False])
def test_where_a_run_was_moved_or_deleted_nothing_is_written(
    moves: bool, playground: Playground, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = started(run, *settings(playground))
    run.rename(tmp_path / "moved")
    if not moves:
        shutil.rmtree(tmp_path / "moved", ignore_errors=True)
    assert process.wait(60) == 1
    said = process.said()
    assert said.count("run: was moved or deleted while this run wrote it") == 1
    assert "Traceback" not in said
    assert not run.exists()


def test_a_stopped_child_ends_when_its_parent_is_killed() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    os.kill(child, signal.SIGSTOP)
    parent.kill()
    parent.wait()
    until = time.monotonic() + 20
    while is_alive(child):
        assert time.monotonic() < until, "it outlives its parent"
        time.sleep(0.05)


def test_a_worker_that_is_stopped_is_named_and_a_stop_reaches_it(
    playground: Playground, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = started(run, *settings(playground))
    workers = [pid for pid in descendants(process.pid) if is_alive(pid)]
    stopped = "warning: process 1 of 2 has given no sign of life for 10 seconds"
    goes_on = "process 1 of 2 gives signs of life again"
    for number, said in ((signal.SIGSTOP, stopped), (signal.SIGCONT, goes_on)):
        os.kill(workers[-1], number)
        until = time.monotonic() + 25
        while said not in process.said():
            assert time.monotonic() < until, process.said()
            time.sleep(0.1)
    os.kill(workers[-1], signal.SIGSTOP)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 143
    assert process.said().count(stopped) == process.said().count(goes_on) == 1
    assert read_json(run / "status.json")["state"] == "stopped"
    assert checkpoint_folders(run)
    assert not any(is_alive(pid) for pid in workers)


@pytest.mark.parametrize("seconds", [0.0, 2.5])
def test_a_stop_before_the_processes_have_met(
    seconds: float, playground: Playground, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = StartedTspo("train", "tiny/tspo", "--out", run, *settings(playground))
    while len(workers := descendants(process.pid)) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    time.sleep(seconds)
    process.send_signal(signal.SIGTERM)
    assert process.wait(15) == 143
    assert read_json(run / "status.json")["state"] == "stopped"
    assert not any(is_alive(pid) for pid in workers)
    said = process.said()
    assert said.count("SIGTERM: stopped before the training began") == 1
    assert "killed" not in said


def test_a_stopped_process_holds_up_nobody_who_ends_a_run() -> None:
    sleepers = [subprocess.Popen(["sleep", "600"]) for _ in range(2)]
    os.kill(sleepers[0].pid, signal.SIGSTOP)
    child_processes.end_processes(sleepers)
    assert all(process.returncode == -signal.SIGTERM for process in sleepers)


@pytest.mark.parametrize("early", [True, False])
def test_a_launch_reaches_a_training_that_is_stopped(early: bool) -> None:
    code = "import signal, time; signal.signal(15, lambda *_: exit(7)); print(1); time.sleep(60)"
    child = subprocess.Popen([sys.executable, "-uc", code], stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline()
    child.send_signal(signal.SIGSTOP)
    with Signals() as signals:
        if early:
            signal.raise_signal(signal.SIGTERM)
        signals.hand_to([child])
        if not early:
            signal.raise_signal(signal.SIGTERM)
    try:
        assert child.wait(5) == 7
    finally:
        child.kill()


def test_after_a_second_signal_nothing_outlives_its_starter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stopping, "is_urgent", lambda: True)
    deaf = subprocess.Popen(
        ["sh", "-c", "trap '' TERM; echo deaf; sleep 600"], stdout=subprocess.PIPE
    )
    assert deaf.stdout is not None
    assert deaf.stdout.readline()
    child_processes.end_processes([deaf], patience=600)
    assert deaf.returncode == -signal.SIGKILL
