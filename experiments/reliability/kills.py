"""A training that is killed again and again: does it resume, and to the same bytes?

    python experiments/reliability/kills.py --kills 200 [--seed 0] [--work DIR] [--json]

One run of a small world trains undisturbed. Others get SIGKILL, are resumed, killed again, and so
on until they finish. A kill comes a random moment after a file operation that is drawn from one of
five kinds: while a checkpoint is written, while old checkpoints are deleted, while a model is
exported, at other records, or at a random time. Every finished run is compared with the undisturbed
one: weights, metrics, rollouts, evaluations and checkpoints, byte for byte; and its rollouts must
have every training question of its epoch exactly once. All processes are forked from one that has
loaded the libraries.
"""

from __future__ import annotations

import argparse
import atexit
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

os.environ["OMP_NUM_THREADS"] = "1"  # threads do not survive a fork
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from experiments.benchmarks.common import machine
from tspo_cli.console import counted, set_quiet
from tspo_cli.data.readers import read_questions
from tspo_cli.disk import LOCK_NAME
from tspo_cli.runs import checkpoint_folders, checkpoint_step, read_jsonl_gz, rollout_files
from tspo_cli.training.launch import preload  # noqa: F401

OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"}
SHARES = {"checkpoint": 0.3, "rotation": 0.15, "export": 0.2, "records": 0.15, "time": 0.2}
LONGEST_DELAY = 0.02
"""Seconds between an operation and the kill: about as long as writing a checkpoint here."""
STEPS, QUESTIONS_PER_STEP = 8, 4
ATTEMPTS_OF_A_RUN = 40


@dataclass(frozen=True, slots=True)
class Kill:
    """After operation `number` (from 1) of its kind, `delay` seconds later. Of kind `time`:
    `delay` seconds after the start.
    """

    kind: str
    number: int
    delay: float


def kind_of(event: str, path: str) -> str:
    """What the process is doing at a file operation on `path`, which is relative to the run."""
    part = path.lstrip("/").split("/")
    if part[0] == "checkpoints" and len(part) > 1:
        return "checkpoint" if part[1].startswith(".") and event != "os.rename" else "rotation"
    if part[0] in ("model", "best", ".model.tmp", ".best.tmp"):
        return "export"
    return "records"


def watch(run: Path, seen: Callable[[str], None]) -> None:
    """Call `seen` with the kind of each writing file operation of this process below `run`."""
    prefix = str(run)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in OPERATIONS or not isinstance(arguments[0], str | os.PathLike):
            return
        if event == "open" and not set("wax+") & set(str(arguments[1] or "")):
            return
        path = os.fspath(arguments[0])
        if path.startswith(prefix):
            seen(kind_of(event, path.removeprefix(prefix)))

    sys.addaudithook(hook)


def count_operations(run: Path, log: Path) -> None:
    """Write the kinds of this process's operations to `log`."""
    handle = open(log, "a", buffering=1)  # noqa: SIM115
    watch(run, lambda kind: print(kind, file=handle))


def die_at(kill: Kill, run: Path) -> None:
    """SIGKILL this process as `kill` says."""

    def end() -> None:
        time.sleep(kill.delay)
        os.kill(os.getpid(), signal.SIGKILL)

    if kill.kind == "time":
        threading.Thread(target=end, daemon=True).start()
        return
    left = kill.number

    def seen(kind: str) -> None:
        nonlocal left
        left -= kind == kill.kind
        if left == 0 and kind == kill.kind:
            threading.Thread(target=end, daemon=True).start()

    watch(run, seen)


def forked(
    prepare: Callable[[], object], arguments: Sequence[str], log: Path, errors: Path | None = None
) -> tuple[int, float]:
    """Exit code (-9: killed) and seconds of `tspo ARGUMENTS`; `prepare` runs in its process. Output
    is appended to `log`, messages to `errors` if that is given.
    """
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        become_tspo(prepare, arguments, log, errors)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), time.monotonic() - began


def become_tspo(
    prepare: Callable[[], object], arguments: Sequence[str], log: Path, errors: Path | None = None
) -> NoReturn:
    """In a forked process: end it as `tspo ARGUMENTS` ends. Nothing unwinds to where the parent's
    temporary folders are removed.
    """
    code = 1
    atexit._clear()  # a command that is stopped would run those of the parent
    try:
        for number, path in ((1, log), (2, errors or log)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644), number)
        sys.argv = ["tspo", *arguments]
        prepare()
        from tspo_cli.commands.app import main

        main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def tspo(arguments: list[str], log: Path, prepare: Callable[[], object] = lambda: None) -> float:
    """Run a command that must succeed; its seconds."""
    code, seconds = forked(prepare, arguments, log)
    if code:
        raise SystemExit(f"tspo {' '.join(arguments)}: exit code {code}; see {log}")
    return seconds


def prepare_world(folder: Path, log: Path, warm_start_steps: int = 60) -> list[str]:
    """A world, its index and a policy to start from; the arguments of `tspo train`."""
    world, index, start = folder / "world", folder / "index", folder / "start"
    count = str(STEPS * QUESTIONS_PER_STEP)
    sizes = ["--entities", "80", "--test-entities", "60", "--train-questions", count]
    tspo(["data", "make-world", "--out", str(world), *sizes, "--test-questions", "8"], log)
    tspo(["index", "build", str(world / "corpus.jsonl"), "--out", str(index)], log)
    made = {"data.world": world, "retriever.index": index, "eval.data": "[]"}
    made["train.steps"] = warm_start_steps
    tspo(["train", "tiny/warmstart", "--out", str(start), *settings(made)], log)
    values = {
        "model.path": start / "model",
        "retriever.index": index,
        "retriever.k": 2,
        "data.train": json.dumps([str(world / "train.jsonl")]),
        "eval.data": json.dumps([str(world / "test.jsonl")]),
        "eval.every": 4,
        "rollout.max_searches": 2,
        "rollout.max_new_tokens": 16,
        "rollout.max_observation_tokens": 96,
        "rollout.questions_per_step": QUESTIONS_PER_STEP,
        "rollout.group_size": 3,
        "optimizer.lr": 2e-4,
        "loss.entropy": 0.001,  # every step moves the weights, whatever the rewards
        "train.steps": STEPS,
        "checkpoint.every": 2,
        "checkpoint.keep": 2,
    }
    return ["train", "tiny/tspo", *settings(values)]


def settings(values: dict[str, Any]) -> list[str]:
    return [word for key, value in values.items() for word in ("--set", f"{key}={value}")]


def contents(run: Path) -> dict[str, bytes]:
    """Every file that two runs of one experiment share."""
    kept = ("metrics.jsonl", "model/*", "best/*", "rollouts/*", "eval/*/*", "checkpoints/*/*")
    return {
        str(path.relative_to(run)): path.read_bytes()
        for pattern in kept
        for path in sorted(run.glob(pattern))
        if path.is_file()
    }


def leftovers(run: Path) -> list[str]:
    """Hidden files that a finished run should not have."""
    return [str(path.relative_to(run)) for path in run.rglob(".*") if path.name not in (LOCK_NAME,)]


def questions_once(run: Path, expected: set[str]) -> bool:
    """True if the rollouts of the run have every question of the epoch exactly once."""
    asked = Counter(
        group["group"][1] for _, path in rollout_files(run) for group in read_jsonl_gz(path)
    )
    return set(asked) == expected and set(asked.values()) == {1}


def draw_kill(operations: Counter[str], seconds: float, run: Path, draw: random.Random) -> Kill:
    """A kill for a run that goes on from the checkpoint in `run`. `operations` and `seconds` are
    those of a whole run.
    """
    folders = checkpoint_folders(run)
    left = 1 - (checkpoint_step(folders[-1]) or 0) / STEPS if folders else 1.0
    kind = draw.choices([*SHARES], [*SHARES.values()])[0]
    if kind == "time":
        return Kill(kind, 0, draw.uniform(0, seconds * left))
    number = draw.randint(1, max(1, round(operations[kind] * left)))
    return Kill(kind, number, draw.uniform(0, LONGEST_DELAY))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the kills")
    parser.add_argument("--work", type=Path, help="folder of the runs, kept [a temporary one]")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    set_quiet(True)
    with tempfile.TemporaryDirectory() as scratch:
        found = disturb(options.work or Path(scratch), options.kills, random.Random(options.seed))
    if options.json:
        print(json.dumps({"machine": machine(), **found}, indent=2))
    else:
        kinds = ", ".join(f"{count} {kind}" for kind, count in found["kinds"].items())
        print(f"{machine()}\nkills: {found['kills']} ({kinds})")
        print(f"runs that they disturbed: {found['runs']}; identical: {found['identical']}")
        print(f"runs with every question of the epoch exactly once: {found['questions_once']}")
    whole = found["runs"] == found["identical"] == found["questions_once"]
    sys.exit(0 if whole and not found["failures"] else 1)


def disturb(work: Path, kills: int, draw: random.Random) -> dict[str, Any]:
    """Kill trainings below `work` until there were `kills`, and see what became of them."""
    work.mkdir(parents=True, exist_ok=True)
    log, operations_log = work / "log.txt", work / "operations.txt"
    command = prepare_world(work, log)
    undisturbed = work / "undisturbed"
    seconds = tspo(
        [*command, "--out", str(undisturbed)],
        log,
        partial(count_operations, undisturbed, operations_log),
    )
    operations = Counter(operations_log.read_text().split())
    expected = contents(undisturbed)
    questions = {question.id for question in read_questions(work / "world" / "train.jsonl")}
    found: dict[str, Any] = {"kills": 0, "runs": 0, "identical": 0, "questions_once": 0}
    kinds: Counter[str] = Counter()
    failures: list[str] = []
    run = work / "disturbed"
    while found["kills"] < kills:
        kills_of_run = 0
        for attempt in range(ATTEMPTS_OF_A_RUN):
            most = kills - found["kills"]
            kill = draw_kill(operations, seconds, run, draw) if most and kills_of_run < 8 else None
            resume = ["--resume"] if attempt else []
            prepare = partial(die_at, kill, run) if kill is not None else lambda: None
            code, _ = forked(prepare, [*command, "--out", str(run), *resume], log)
            if code == -signal.SIGKILL and kill is not None:
                found["kills"] += 1
                kills_of_run += 1
                kinds[kill.kind] += 1
                continue
            if code:
                failures.append(
                    f"exit code {code} after {counted(kills_of_run, 'kill')}; see {log}"
                )
            break
        found["runs"] += 1
        same = contents(run) == expected and not leftovers(run)
        found["identical"] += same
        found["questions_once"] += questions_once(run, questions)
        if not same:
            failures.append(f"run {found['runs']} differs: kept as {run}-{found['runs']}")
            shutil.copytree(run, f"{run}-{found['runs']}")
        shutil.rmtree(run)
        print(json.dumps({**found, **kinds}), file=sys.stderr, flush=True)
    return {**found, "kinds": dict(kinds), "failures": failures, "undisturbed_seconds": seconds}


if __name__ == "__main__":
    main()
