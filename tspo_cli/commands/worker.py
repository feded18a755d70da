"""A process of a distributed training or of an evaluation, which ends with the process PID that
started it.

Usage: python -m tspo_cli.commands.worker RUN ATTEMPT fresh|resume SETTINGS PID
SETTINGS is a folder with the resolved configuration.
       python -m tspo_cli.commands.worker evaluate PID
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from tspo_cli import console, stopping
from tspo_cli.commands.signals import end_on_signals
from tspo_cli.commands.train import train_here
from tspo_cli.disk import WriteError, reason
from tspo_cli.errors import RemoteServiceError, TspoError


def evaluate() -> int:
    """Answer questions of an evaluation and return the exit code."""
    from tspo_cli.evaluation.answering.answer_portions import answer_portions

    return answer_portions()


def main() -> int:
    """Train and return the exit code.

    Only the first process prints an error from before the processes met, which all have. Every
    process prints the error of a server, which may fail for a single one.
    """
    from tspo_cli.config.load_config import read_resolved

    run, attempt, mode = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    try:
        train_here(read_resolved(Path(sys.argv[4])), run, attempt, mode == "resume")
    except TspoError as error:
        if os.environ.get("RANK") == "0" or isinstance(error, RemoteServiceError):
            console.error(error)
        return error.exit_code
    except WriteError as error:
        console.error(reason(error))
        return 1
    return 0


def run() -> None:
    """Run `main` and end this process with its exit code, also after an exception."""
    from tspo_cli.training.core.distributed import leave
    from tspo_cli.training.launch.child_processes import end_with_parent

    console.open_streams()
    end_on_signals()
    end_with_parent(int(sys.argv[-1]))
    try:
        status = evaluate() if len(sys.argv) == 3 else main()
    except SystemExit as end:  # a signal
        status = int(end.code or 0)
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        number = stopping.interrupted()
        if not number:
            traceback.print_exc()
        status = 128 + number if number else 1
    leave(status)


if __name__ == "__main__":
    run()
