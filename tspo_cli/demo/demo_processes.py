"""Run the commands of a demo as processes that hold its lock and end with it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tspo_cli.console import progress
from tspo_cli.demo.demo_commands import Command
from tspo_cli.plain_files import append_plain
from tspo_cli.runs import CONFIG_NAME, METRICS_NAME, read_json, read_jsonl
from tspo_cli.training.launch.child_processes import (
    CHECKPOINT_PATIENCE,
    child_command,
    end_processes,
)

POLL_SECONDS = 0.5


def run_commands(commands: Sequence[Command], out: Path, lock: int) -> None:
    """Run the commands at the same time if there is a core for each, else one after the other. The
    first failure stops the others.

    Raises:
        TspoError: a command failed; the error has its exit code.
    """
    if not commands:
        return
    if len(commands) == 1:
        process = start(commands[0].arguments, lock, stdout=subprocess.DEVNULL)
        with ended([process]):
            commands[0].check_exit(process.wait())
        return
    together = len(commands) if (os.cpu_count() or 1) >= len(commands) else 1
    for first in range(0, len(commands), together):
        _run_together(commands[first : first + together], out, lock)


def start(arguments: Sequence[str], lock: int, **options: Any) -> subprocess.Popen[bytes]:
    """Start a tspo command that holds the lock too. `options` are those of Popen."""
    return subprocess.Popen(child_command(arguments), pass_fds=[lock], **options)


@contextmanager
def ended(processes: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """End the processes after the block, if they have not ended yet."""
    try:
        yield
    finally:
        end_processes(processes, CHECKPOINT_PATIENCE)


def _run_together(commands: Sequence[Command], out: Path, lock: int) -> None:
    logs = [out / "logs" / f"{command.folder.name}.log" for command in commands]
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    processes: list[subprocess.Popen[bytes]] = []
    with ended(processes):
        for command, path in zip(commands, logs, strict=True):
            path.parent.mkdir(exist_ok=True)
            path.unlink(missing_ok=True)
            with append_plain(path) as log:
                processes.append(
                    start(
                        *(command.arguments, lock),
                        env=environment,
                        stdout=subprocess.DEVNULL,
                        stderr=log,
                    )
                )
        _wait(commands, processes, logs)


def _wait(
    commands: Sequence[Command],
    processes: Sequence[subprocess.Popen[bytes]],
    logs: Sequence[Path],
) -> None:
    """Wait for all processes and show the progress of the runs, read from their metrics."""
    folders = [command.folder for command in commands]
    names = " + ".join(folder.name for folder in folders)
    label, total = (f"percent of {names}", 100) if commands[0].is_training else (names, None)
    with progress(label, total) as advance:
        shown = 0
        while any(process.poll() is None for process in processes):
            for command, process, log in zip(commands, processes, logs, strict=True):
                command.check_exit(process.poll() or 0, log)
            percent, note = _progress(folders)
            advance(percent - shown, note)
            shown = percent
            time.sleep(POLL_SECONDS)
    for command, process, log in zip(commands, processes, logs, strict=True):
        command.check_exit(process.returncode, log)


def _progress(runs: Sequence[Path]) -> tuple[int, str]:
    """Percent of all steps that are done, and the newest reward of every run."""
    done = total = 0
    notes = []
    for run in runs:
        if not (run / CONFIG_NAME).exists():
            return 0, ""
        rows = read_jsonl(run / METRICS_NAME)
        done += len(rows)
        total += read_json(run / CONFIG_NAME)["train"]["steps"]
        if rows:
            notes.append(f"{run.name} reward {rows[-1].get('reward', 0.0):.2f}")
    return 100 * done // total, "  ".join(notes)
