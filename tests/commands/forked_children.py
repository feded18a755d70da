"""A demo's commands as forks of the demo itself, which the command server has forked with all of
its imports: each is a process of its own with the words of its command line, but starts at once.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from tests.command_server import end_after
from tspo_cli.demo import demo_processes
from tspo_cli.training.launch import child_processes


def fork_children() -> None:
    """Called in the process of a demo before it begins."""
    demo_processes.start = _start


def _start(arguments: Sequence[str], lock: int, **options: Any) -> subprocess.Popen[bytes]:
    command = child_processes.child_command(arguments)
    parent, environment = os.getpid(), options.pop("env", os.environ)

    def become() -> None:
        os.closerange(3, lock)
        os.closerange(lock + 1, os.sysconf("SC_OPEN_MAX"))
        os.environ.update(environment)
        sys.argv = ["child_processes", str(parent), *arguments]
        end_after(child_processes._main)

    # Output and lock are those of a new process, which runs `become` in place of a new Python.
    return subprocess.Popen(command, pass_fds=[lock], preexec_fn=become, **options)
