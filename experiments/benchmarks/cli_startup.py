"""Start-up time of `tspo --help` in a new process, compared with the bare interpreter.

    python experiments/benchmarks/cli_startup.py [--runs 15] [--json]

The commands alternate, so that other work on the machine slows all of them equally. Compare the
medians.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time

from tspo_cli.console import counted

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import typer": [sys.executable, "-c", "import typer"],
    "tspo --help": [sys.executable, "-m", "tspo_cli", "--help"],
    "tspo train --help": [sys.executable, "-m", "tspo_cli", "train", "--help"],
}


def seconds(command: list[str]) -> float:
    """Wall time of one process. A command that fails ends the benchmark."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def measure(runs: int) -> list[dict[str, float | str]]:
    """Median, fastest and slowest of `runs` starts per command, in seconds.

    A first start of each command is not counted.
    """
    for command in COMMANDS.values():
        seconds(command)
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(runs):
        for name, command in COMMANDS.items():
            times[name].append(seconds(command))
    return [
        {
            "command": name,
            "median_s": statistics.median(values),
            "min_s": min(values),
            "max_s": max(values),
        }
        for name, values in times.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    rows = measure(options.runs)
    cores = counted(os.cpu_count() or 1, "core")
    machine = f"Python {platform.python_version()}, {platform.machine()}, {cores}"
    if options.json:
        print(json.dumps({"machine": machine, "runs": options.runs, "rows": rows}, indent=2))
        return
    print(f"{machine}, {counted(options.runs, 'run')} each\n")
    print(f"{'command':<20}{'median s':>10}{'fastest':>10}{'slowest':>10}")
    for row in rows:
        print(
            f"{row['command']:<20}{row['median_s']:>10.3f}{row['min_s']:>10.3f}{row['max_s']:>10.3f}"
        )


if __name__ == "__main__":
    main()
