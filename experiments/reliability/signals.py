"""A training, sweep or demo that is asked to stop at a random moment: does it end in time with the
right exit code, leave its last whole step, and go on to the same bytes?

    python -m experiments.reliability.signals --signal TERM --moments 10 --processes 1 2
        [--of train|sweep|demo] [--group] [--seed 0] [--work DIR] [--json]

A small world trains undisturbed, once for each number of processes. Other runs get the signal at a
random moment after a random step, the whole process group with --group, and are resumed. No
checkpoint is written by steps: what a resumed run goes on from is what the signal left.

A sweep (two cells at a time) and a quick demo get the signal at a random moment of their time. No
process of theirs may be left, no run may say that it is running, and the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from experiments.benchmarks.common import machine
from experiments.reliability.kills import (
    STEPS,
    become_tspo,
    contents,
    forked,
    prepare_world,
    settings,
    tspo,
)
from tspo_cli.console import counted, set_quiet
from tspo_cli.disk import has_writer
from tspo_cli.runs import (
    METRICS_NAME,
    checkpoint_folders,
    checkpoint_step,
    read_jsonl,
    read_status,
)

LONGEST_END = 30.0
"""Seconds that a stop may take."""


def shared(run: Path) -> dict[str, bytes]:
    """What a stopped and an undisturbed run have in common: all but the checkpoints of stops."""
    last = f"checkpoints/step_{STEPS:06}/"
    return {
        name: content
        for name, content in contents(run).items()
        if not name.startswith("checkpoints/") or name.startswith(last)
    }


def stopped(
    command: Sequence[str], run: Path, log: Path, number: int, steps: int, delay: float, group: bool
) -> tuple[int, float]:
    """Exit code of a training, and its seconds from the signal to its end. The signal comes `delay`
    seconds after `steps` steps, to its process alone or to the whole `group`.
    """
    child = os.fork()
    if child == 0:
        become_tspo(lambda: os.setpgid(0, 0), command, log)
    while len(read_jsonl(run / METRICS_NAME)) < steps:
        if os.waitpid(child, os.WNOHANG)[0]:
            raise SystemExit(f"the training ended before step {steps}; see {log}")
        time.sleep(0.01)
    time.sleep(delay)
    began = time.monotonic()
    if group:
        os.killpg(child, number)
    else:
        os.kill(child, number)
    status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status), time.monotonic() - began


def try_moment(
    command: list[str],
    work: Path,
    number: int,
    draw: random.Random,
    wanted: dict[str, bytes],
    step_seconds: float,
    group: bool,
) -> dict[str, Any]:
    """Stop one run, see what it left, and resume it."""
    run, log = work / "stopped", work / "log.txt"
    if run.exists():
        shutil.rmtree(run)
    steps, delay = draw.randint(1, STEPS - 1), draw.uniform(0, step_seconds)
    line = [*command, "--out", str(run)]
    code, seconds = stopped(line, run, log, number, steps, delay, group)
    is_alone = not has_writer(run)  # no process of it is left
    status, folders = read_status(run), checkpoint_folders(run)
    step = checkpoint_step(folders[-1]) if folders else None
    found = {"after": steps, "code": code, "seconds": seconds, "saved": step, **status}
    resumed, _ = forked(lambda: None, [*line, "--resume"], log)
    same = resumed == 0 and shared(run) == wanted
    right = is_alone and code == 128 + number and step == status["step"] >= steps
    found |= {"same": same, "right": right and status["state"] in ("stopped", "finished")}
    return found


def made(out: Path) -> dict[str, bytes]:
    """What runs, evaluations and data below `out` have in common with undisturbed ones."""
    files = {
        f"{run.relative_to(out)}/{name}": content
        for run in runs_below(out)
        for name, content in contents(run).items()
        if not name.startswith("checkpoints/")
    }
    for name in ("world", "index"):
        files |= {
            str(path.relative_to(out)): path.read_bytes()
            for path in (out / name).glob("*")
            if path.is_file()
        }
    return files


def runs_below(out: Path) -> list[Path]:
    return sorted(path.parent for path in out.rglob("metrics.jsonl"))


def kept_its_steps(run: Path) -> bool:
    """True if the run goes on from its last whole step."""
    folders = checkpoint_folders(run)
    steps = max((row["step"] for row in read_jsonl(run / METRICS_NAME)), default=0)
    return not steps or (bool(folders) and checkpoint_step(folders[-1]) == steps)


def processes_of(out: Path) -> list[str]:
    """The command lines of living processes that name `out`, without this one's own."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(out) in line and int(path.parent.name) != os.getpid():
                found.append(line)
    return found


def try_whole(
    command: list[str], out: Path, log: Path, number: int, delay: float, group: bool
) -> dict[str, Any]:
    """Stop a sweep or a demo after `delay` seconds, and see what is left."""
    child = os.fork()
    if child == 0:
        become_tspo(lambda: os.setpgid(0, 0), command, log)
    time.sleep(delay)
    began = time.monotonic()
    (os.killpg if group else os.kill)(child, number)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    seconds, left = time.monotonic() - began, processes_of(out)
    states = {str(run.relative_to(out)): read_status(run)["state"] for run in runs_below(out)}
    right = code == 128 + number and not left and not {"running", "failed"} & set(states.values())
    right = right and all(map(kept_its_steps, runs_below(out)))
    return {
        "after": delay,
        "code": code,
        "seconds": seconds,
        "left": left,
        **states,
        "right": right,
    }


def try_many(
    options: argparse.Namespace, command: list[str], work: Path, number: int, draw: random.Random
) -> list[dict[str, Any]]:
    """A sweep or a demo, undisturbed and then stopped at random moments."""
    out, log, found = work / "many", work / "log.txt", []
    line = [*command, "--out", str(out)]
    seconds = tspo(line, log)
    wanted = made(out)
    for _ in range(options.moments):
        shutil.rmtree(out)
        delay = draw.uniform(1, seconds)
        moment = try_whole(line, out, log, number, delay, options.group)
        moment["same"] = forked(lambda: None, line, log)[0] == 0 and made(out) == wanted
        found.append({"processes": 1, **moment})
        print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--of", default="train", choices=["train", "sweep", "demo"])
    parser.add_argument("--signal", default="TERM", choices=["TERM", "HUP", "INT", "USR1"])
    parser.add_argument("--moments", type=int, default=3)
    parser.add_argument("--processes", type=int, nargs="+", default=[1])
    parser.add_argument("--group", action="store_true", help="signal the whole process group")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--work", type=Path, help="folder of the runs, kept [a temporary one]")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    set_quiet(True)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    number = int(signal.Signals[f"SIG{options.signal}"])
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        work.mkdir(parents=True, exist_ok=True)
        draw, found = random.Random(options.seed), []
        if options.of == "demo":
            found = try_many(options, ["demo", "--quick"], work, number, draw)
            options.processes = [1]
        else:
            train = prepare_world(work, work / "log.txt")
            command = [*train, *settings({"checkpoint.every": 50})]
        if options.of == "sweep":
            grid = work / "grid.sweep.toml"
            grid.write_text('base = ["tiny/tspo"]\nseeds = [0, 1]\n\n[arms.tspo]\n')
            words = ["sweep", str(grid), "--jobs", "2", *command[2:]]
            found = try_many(options, words, work, number, draw)
            options.processes = [1]
        for processes in options.processes if options.of == "train" else ():
            line = [*command, *settings({"train.processes": processes})]
            undisturbed = work / f"undisturbed-{processes}"
            tspo([*line, "--out", str(undisturbed)], work / "log.txt")
            timings = read_jsonl(undisturbed / "timings.jsonl")
            seconds = sum(row["total"] for row in timings) / len(timings)
            wanted = shared(undisturbed)
            for _ in range(options.moments):
                moment = try_moment(line, work, number, draw, wanted, seconds, options.group)
                found.append({"processes": processes, **moment})
                print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    if options.json:
        print(json.dumps({"machine": machine(), "signal": options.signal, "moments": found}))
    else:
        print(machine())
        for processes in options.processes:
            rows = [row for row in found if row["processes"] == processes]
            print(
                f"{options.of}, {options.signal}, processes {processes}: "
                f"{counted(len(rows), 'moment')}; {sum(row['right'] for row in rows)} with "
                f"checkpoint, status and exit code; {sum(row['same'] for row in rows)} went on to "
                f"the same bytes; longest end {max(row['seconds'] for row in rows):.1f} s"
            )
    whole = all(row["same"] and row["right"] and row["seconds"] < LONGEST_END for row in found)
    sys.exit(0 if whole else 1)


if __name__ == "__main__":
    main()
