"""One of several training processes: `python -m tspo_cli.commands.worker RUN ATTEMPT
fresh|resume`.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from tspo_cli.commands.train import train_here
from tspo_cli.errors import RemoteServiceError, TspoError


def main() -> int:
    """Train; an error that all processes meet is told once, by the first. A server may fail one of
    them alone.
    """
    from tspo_cli.config.load_config import read_resolved

    run, attempt, mode = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    try:
        train_here(read_resolved(run), run, attempt, mode == "resume")
    except TspoError as error:
        if os.environ.get("RANK") == "0" or isinstance(error, RemoteServiceError):
            print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def run() -> None:
    """`main`, and the end of this process, whatever happened."""
    from tspo_cli.training.core.distributed import leave

    try:
        status = main()
    except SystemExit as end:  # a signal
        status = int(end.code or 0)
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        traceback.print_exc()
        status = 1
    leave(status)


if __name__ == "__main__":
    run()
