"""A Slurm of local processes: its commands as scripts, and what the scheduler does with a job.

Nodes are addresses of this machine (127.0.0.1, 127.0.0.2, ...). `srun` starts one process a node,
hands signals on, and with --kill-on-bad-exit ends all when one fails. The scheduler refuses a log
in a folder that does not exist, and runs a job again that was queued again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

_SRUN = """#!{python}
import os, signal, subprocess, sys, time
arguments = sys.argv[1:]
assert "--kill-on-bad-exit=1" in arguments
command = arguments[arguments.index("python") :]
hosts = os.environ["FAKE_HOSTS"].split(",")
tasks = [
    subprocess.Popen(command, env={{**os.environ, "SLURM_NODEID": str(node)}})
    for node in range(len(hosts))
]
for number in (signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, lambda n, _: [t.send_signal(n) for t in tasks if t.poll() is None])
worst = 0
while any(task.poll() is None for task in tasks):
    codes = [code if code >= 0 else 128 - code for task in tasks if (code := task.poll())]
    worst = max([worst, *codes])
    if worst:
        [task.terminate() for task in tasks if task.poll() is None]
    time.sleep(0.05)
sys.exit(max([worst, *(abs(task.returncode) for task in tasks)]))
"""
_SCONTROL = """#!/bin/bash
if [ "$1" = requeue ]; then echo "$2" >> "$FAKE_QUEUE"; exit 0; fi
[ "$1 $2 $3" = "show hostnames node[0-9]" ] && echo "$FAKE_HOSTS" | tr ',' '\\n'
"""


class FakeSlurm:
    """A cluster whose nodes are `hosts`. Jobs are submitted in `folder`."""

    def __init__(self, folder: Path, hosts: list[str]) -> None:
        self.folder, self.hosts = folder, hosts
        self.queue = folder / "queue"
        programs = folder / "bin"
        programs.mkdir()
        for name, text in (("srun", _SRUN.format(python=sys.executable)), ("scontrol", _SCONTROL)):
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)

    def run(
        self,
        script: Path,
        job: int,
        stop: Callable[[], bool] | None = None,
        number: signal.Signals = signal.SIGUSR1,
        timeout: float = 800,
    ) -> list[int]:
        """Run the job, and again as often as it was queued again; returns the exit codes. When
        `stop` says so, the first run of the job gets the signal that its time is nearly over.
        """
        options = self._options(script)
        assert options["signal"] == "B:USR1@120"
        assert "requeue" in options
        log = self.folder / options["output"].replace("%j", str(job))
        assert log.parent.is_dir(), "Slurm would end the job without a log"
        codes: list[int] = []
        while True:
            self.queue.unlink(missing_ok=True)
            codes.append(self._once(script, job, len(codes), log, stop, number, timeout))
            stop = None
            if not self.queue.exists():
                return codes
            assert self.queue.read_text().split() == [str(job)]

    def _options(self, script: Path) -> dict[str, str]:
        lines = script.read_text().splitlines()
        assert lines[0] == "#!/bin/bash"
        words = [line.removeprefix("#SBATCH --") for line in lines if line.startswith("#SBATCH --")]
        return {name: value for name, _, value in (word.partition("=") for word in words)}

    def _once(
        self,
        script: Path,
        job: int,
        restarts: int,
        log: Path,
        stop: Callable[[], bool] | None,
        number: signal.Signals,
        timeout: float,
    ) -> int:
        variables = {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
            "FAKE_HOSTS": ",".join(self.hosts),
            "FAKE_QUEUE": str(self.queue),
            "SLURM_JOB_ID": str(job),
            "SLURM_JOB_NODELIST": "node[0-9]",
            **({"SLURM_RESTART_COUNT": str(restarts)} if restarts else {}),
        }
        with log.open("ab") as output:
            process = subprocess.Popen(
                ["bash", str(script)],
                cwd=self.folder,
                env=variables,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            until = time.monotonic() + timeout
            try:
                while process.poll() is None and time.monotonic() < until:
                    if stop is not None and stop():
                        process.send_signal(number)
                        stop = None
                    time.sleep(0.05)
                assert process.poll() is not None, f"not over in time: {log.read_text()[-3000:]}"
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
        return process.returncode
