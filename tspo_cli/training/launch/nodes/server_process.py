"""No server outlives the launch that started it.

`python -m tspo_cli.training.launch.nodes.server_process PID ARGUMENTS` is `tspo ARGUMENTS` that
gets SIGTERM when the process PID, which started it, has ended, also where that was killed. This
holds for a server that replaces the process, as vLLM's does; on Linux only.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys

from tspo_cli.training.launch.child_processes import set_parent_death_signal


def _main() -> None:
    _, parent, *arguments = sys.argv
    set_parent_death_signal(signal.SIGTERM)
    if os.getppid() != int(parent):
        raise SystemExit(128 + signal.SIGTERM)
    sys.argv = ["tspo", *arguments]
    runpy.run_module("tspo_cli", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
