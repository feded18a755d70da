"""`tspo demo`: the whole loop as the commands that anybody would type, one after the other."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from tspo_cli.commands.options import Json, Settings
from tspo_cli.console import progress, result, result_json, say
from tspo_cli.errors import InvalidInputError, TspoError, UsageError
from tspo_cli.runs import (
    CONFIG_NAME,
    EVAL_SUMMARY_NAME,
    METRICS_NAME,
    MODEL_NAME,
    STATUS_NAME,
    read_json,
    read_jsonl,
    write_json,
)

DEFAULT_OUT = Path("runs/demo")
MARKER = "demo.json"
ARMS = ("grpo", "tspo")
BASELINES = ("direct", "rag")
# One fact per passage and no yes-or-no questions: nearly every group is wrong at first, but often a
# near-miss.
HARD_START = ("--facts-per-passage", "1", "--comparison-share", "0")


@dataclass(frozen=True, slots=True)
class Command:
    """One tspo command. `done` is the file that shows that it has been carried out."""

    arguments: tuple[str, ...]
    done: Path

    @property
    def text(self) -> str:
        """As one would type it."""
        return shlex.join(["tspo", *self.arguments])

    def finished(self) -> bool:
        """True when an earlier demo carried it out."""
        if self.done.name == STATUS_NAME:
            return self.done.exists() and read_json(self.done)["state"] == "finished"
        return self.done.exists()


@dataclass(frozen=True, slots=True)
class Stage:
    """Commands that may run at the same time."""

    title: str
    commands: tuple[Command, ...]


def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for everything that the demo writes.")
    ] = DEFAULT_OUT,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of training and rollouts. The world does not change.")
    ] = 0,
    settings: Settings = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Only a few steps of everything, to test the installation."),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Delete an earlier demo in the folder and start again."),
    ] = False,
    json: Json = False,
) -> None:
    """Run the whole loop on this machine in minutes and compare GRPO with TSPO.

    The demo makes a synthetic world, indexes its corpus and warm-starts a tiny policy on imperfect
    demonstrations. It trains that policy with GRPO and with TSPO, with the same budget and seed,
    evaluates both and writes a report page. Stages that an earlier demo with the same settings has
    finished are not repeated. --set changes a key in both RL experiments.
    """
    _claim(out, {"seed": seed, "set": settings or [], "quick": quick}, overwrite)
    seconds: dict[str, float] = {}
    stages = demo_stages(out, seed, tuple(settings or ()), quick=quick)
    for number, stage in enumerate(stages, start=1):
        say(f"[{number}/{len(stages)}] {stage.title}")
        started = time.perf_counter()
        for command in stage.commands:
            say(f"  $ {command.text}" + ("   (done before)" if command.finished() else ""))
        _run([command for command in stage.commands if not command.finished()], out)
        seconds[stage.title] = time.perf_counter() - started
        say(f"  {seconds[stage.title]:.1f} s")
    _tell(out, stages, seconds, json)


def demo_stages(
    out: Path, seed: int, settings: tuple[str, ...] = (), *, quick: bool = False
) -> list[Stage]:
    """What the demo does, in order."""
    world, index = out / "world", out / "index"
    paths = ["--set", f"retriever.index={index}", "--set", f'eval.data=["{world}/test.jsonl"]']
    start = ["--set", f"data.world={world}"]
    arm = [
        "--set",
        f"model.path={out}/warmstart/{MODEL_NAME}",
        "--set",
        f'data.train=["{world}/train.jsonl"]',
    ]
    if out == DEFAULT_OUT:
        paths, start, arm = [], [], []
    if quick:
        start += [
            "--set",
            "train.steps=40",
            "--set",
            "optimizer.warmup=5",
            "--set",
            "eval.limit=20",
        ]
        arm += ["--set", "train.steps=4", "--set", "eval.every=2", "--set", "eval.limit=20"]
    seeded = ["--set", f"seed={seed}"] if seed else []
    extra = [part for setting in settings for part in ("--set", setting)]

    def train(name: str, *arguments: str) -> Command:
        run = out / name
        resume = ("--resume",) if (run / STATUS_NAME).exists() else ()
        every = (*seeded, *paths, *arguments, *resume)
        return Command(("train", f"tiny/{name}", "--out", str(run), *every), run / STATUS_NAME)

    def baseline(method: str) -> Command:
        folder = out / "baselines" / method
        data = ("--data", f"{world}/test.jsonl", "--index", str(index))
        arguments = (
            "eval",
            str(out / "tspo"),
            *data,
            "--method",
            method,
            "--out",
            str(folder),
            "--overwrite",
        )
        return Command(arguments, folder / EVAL_SUMMARY_NAME)

    make_world = ("data", "make-world", "--out", str(world), *HARD_START, "--overwrite")
    build = ("index", "build", f"{world}/corpus.jsonl", "--out", str(index), "--overwrite")
    return [
        Stage("world", (Command(make_world, world / "world.json"),)),
        Stage("index", (Command(build, index / "manifest.json"),)),
        Stage("warm start (SFT)", (train("warmstart", *start),)),
        Stage("GRPO and TSPO", tuple(train(name, *arm, *extra) for name in ARMS)),
        Stage(
            "direct and RAG with the same model", tuple(baseline(method) for method in BASELINES)
        ),
    ]


def _claim(out: Path, wanted: dict[str, Any], overwrite: bool) -> None:
    """Make `out` ours: new, or an earlier demo with the same settings."""
    marker = out / MARKER
    if out.exists() and any(out.iterdir()):
        if not marker.exists():
            raise InvalidInputError(f"{out}: exists and is not a demo; choose another --out")
        if overwrite:
            shutil.rmtree(out)
        elif read_json(marker) != wanted:
            raise UsageError(
                f"{out}: holds a demo with other settings; add --overwrite or choose another --out"
            )
    write_json(marker, wanted)


def _run(commands: list[Command], out: Path) -> None:
    """Carry the commands out, side by side where there are cores for it; the first failure ends the
    others.
    """
    if not commands:
        return
    if len(commands) == 1:
        code = subprocess.run(_argv(commands[0]), stdout=subprocess.DEVNULL, check=False).returncode
        _must_succeed(commands[0], code)
        return
    together = len(commands) if (os.cpu_count() or 1) >= len(commands) else 1
    for start in range(0, len(commands), together):
        _run_together(commands[start : start + together], out)


def _run_together(commands: list[Command], out: Path) -> None:
    logs = out / "logs"
    logs.mkdir(exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    processes = []
    for command in commands:
        with open(logs / f"{command.done.parent.name}.log", "w", encoding="utf-8") as log:
            processes.append(
                subprocess.Popen(
                    _argv(command), env=environment, stdout=subprocess.DEVNULL, stderr=log
                )
            )
    try:
        _watch(commands, processes)
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
            process.wait()


def _watch(commands: list[Command], processes: list[subprocess.Popen[bytes]]) -> None:
    """Show how far the runs are, from their metrics, until all have ended."""
    runs = [command.done.parent for command in commands]
    label = " + ".join(run.name for run in runs)
    with progress(label, None if commands[0].done.name != STATUS_NAME else 100) as advance:
        shown = 0
        while any(process.poll() is None for process in processes):
            for command, process in zip(commands, processes, strict=True):
                if process.poll():
                    _must_succeed(command, process.returncode)
            percent, note = _progress(runs)
            advance(percent - shown, note)
            shown = percent
            time.sleep(0.5)
    for command, process in zip(commands, processes, strict=True):
        _must_succeed(command, process.returncode)


def _progress(runs: list[Path]) -> tuple[int, str]:
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


def _argv(command: Command) -> list[str]:
    return [sys.executable, "-m", "tspo_cli", *command.arguments]


def _must_succeed(command: Command, code: int) -> None:
    if code:
        log = command.done.parent.parent / "logs" / f"{command.done.parent.name}.log"
        where = (
            f"; {log.read_text(encoding='utf-8').strip().splitlines()[-1]}" if log.exists() else ""
        )
        failure = TspoError(f"{command.text}: ended with exit code {code}{where}")
        failure.exit_code = code if code > 0 else 128 - code
        raise failure


def _tell(out: Path, stages: list[Stage], seconds: dict[str, float], json: bool) -> None:
    from tspo_cli.reporting.tables.evaluation_table import scores_table

    started = time.perf_counter()
    page = out / "report.html"
    report = ["report", str(out), "--html", str(page)]
    table = subprocess.run(
        [sys.executable, "-m", "tspo_cli", *report, *(["--format", "json"] if json else [])],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    _must_succeed(Command(tuple(report), page), table.returncode)
    seconds["report"] = time.perf_counter() - started
    baselines = [
        one
        for method in BASELINES
        for one in read_json(out / "baselines" / method / EVAL_SUMMARY_NAME)["results"]
    ]
    if json:
        import json as json_module

        commands = [command.text for stage in stages for command in stage.commands]
        rows = json_module.loads(table.stdout)["rows"]
        result_json(
            {
                "rows": rows,
                "baselines": baselines,
                "seconds": seconds,
                "commands": commands,
                "page": str(page),
            }
        )
        return
    result(table.stdout.rstrip())
    result("\nThe same TSPO model without its own searches:\n" + scores_table(baselines))
    times = ", ".join(f"{title} {value:.0f} s" for title, value in seconds.items())
    result(f"\ntime   {sum(seconds.values()):.0f} s in all: {times}")
    result(f"runs   {out}/{{warmstart,grpo,tspo}}   world {out}/world   index {out}/index")
    result(f"page   {page}")
    result(
        "One seed proves nothing: repeat with --seed 1, --seed 2, ... (and another --out) before "
        "you believe a gap."
    )
