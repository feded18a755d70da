"""The demo: every stage is a `tspo` command that a user could type, run as a process of its own."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tspo_cli.console import progress, say
from tspo_cli.errors import InvalidInputError, TspoError, UsageError
from tspo_cli.reporting.tables.evaluation_table import scores_table
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
QUICK_WARM_START = ("train.steps=40", "optimizer.warmup=5", "eval.limit=20")
QUICK_ARM = ("train.steps=4", "eval.every=2", "eval.limit=20")
POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What the demo does and where: `settings` are KEY=VALUE for both RL experiments."""

    out: Path
    seed: int = 0
    settings: tuple[str, ...] = ()
    quick: bool = False

    def record(self) -> dict[str, Any]:
        """The options that decide the results, as `demo.json` keeps them."""
        return {"seed": self.seed, "set": list(self.settings), "quick": self.quick}


@dataclass(frozen=True, slots=True)
class Command:
    """One tspo command. `output` is the file that exists when the command has finished."""

    arguments: tuple[str, ...]
    output: Path

    @property
    def text(self) -> str:
        """The command line, as a user types it."""
        return shlex.join(["tspo", *self.arguments])

    @property
    def argv(self) -> list[str]:
        """The words that start the process."""
        return [sys.executable, "-m", "tspo_cli", *self.arguments]

    @property
    def folder(self) -> Path:
        """The run directory, or another folder, that the command writes."""
        return self.output.parent

    @property
    def is_training(self) -> bool:
        """True for `tspo train`, whose output is the status of the run."""
        return self.output.name == STATUS_NAME

    def finished(self) -> bool:
        """True when an earlier demo has completed the command."""
        if self.is_training:
            return self.output.exists() and read_json(self.output)["state"] == "finished"
        return self.output.exists()

    def check_exit(self, code: int, log: Path | None = None) -> None:
        """Raise TspoError with the command's own exit code, unless `code` is 0. The message ends
        with the last line of `log`, if there is one.
        """
        if code == 0:
            return
        lines = log.read_text(encoding="utf-8").strip().splitlines() if log is not None else []
        reason = f"; {lines[-1]}" if lines else ""
        error = TspoError(f"{self.text}: ended with exit code {code}{reason}")
        error.exit_code = code if code > 0 else 128 - code
        raise error


@dataclass(frozen=True, slots=True)
class Stage:
    """Commands that may run at the same time."""

    title: str
    commands: tuple[Command, ...]


@dataclass(frozen=True, slots=True)
class DemoResult:
    """What the demo produced.

    `report` is the output of `tspo report`, as a table or as JSON; `baselines` holds the scores of
    the prompting methods; `seconds` is the time of each stage by its title.
    """

    options: DemoOptions
    stages: tuple[Stage, ...]
    report: str
    baselines: tuple[dict[str, Any], ...]
    seconds: dict[str, float]

    def record(self) -> dict[str, Any]:
        """For --json. Needs a report in JSON."""
        return {
            "rows": json.loads(self.report)["rows"],
            "baselines": list(self.baselines),
            "seconds": self.seconds,
            "commands": [command.text for stage in self.stages for command in stage.commands],
            "page": str(page_path(self.options.out)),
        }

    def text(self) -> str:
        """For a terminal: the tables, the time, and where everything is."""
        out = self.options.out
        times = ", ".join(f"{title} {value:.0f} s" for title, value in self.seconds.items())
        return "\n".join(
            [
                self.report.rstrip(),
                "\nThe same TSPO model without its own searches:",
                scores_table(self.baselines),
                f"\ntime   {sum(self.seconds.values()):.0f} s in all: {times}",
                f"runs   {out}/{{warmstart,grpo,tspo}}   world {out}/world   index {out}/index",
                f"page   {page_path(out)}",
                "One seed proves nothing: repeat with --seed 1, --seed 2, ... (and another --out) "
                "before you believe a gap.",
            ]
        )


def run_demo(options: DemoOptions, *, overwrite: bool, as_json: bool) -> DemoResult:
    """Run every stage that is not finished yet, then the report.

    Raises:
        InvalidInputError: the folder exists and holds something other than a demo.
        UsageError: it holds a demo with other options, and `overwrite` is not given.
        TspoError: a command failed; the error has its exit code.
    """
    claim_folder(options, overwrite)
    stages = demo_stages(options)
    seconds: dict[str, float] = {}
    for number, stage in enumerate(stages, start=1):
        say(f"[{number}/{len(stages)}] {stage.title}")
        started = time.perf_counter()
        for command in stage.commands:
            say(f"  $ {command.text}" + ("   (done before)" if command.finished() else ""))
        _run([command for command in stage.commands if not command.finished()], options.out)
        seconds[stage.title] = time.perf_counter() - started
        say(f"  {seconds[stage.title]:.1f} s")
    started = time.perf_counter()
    report = _report(options.out, as_json)
    seconds["report"] = time.perf_counter() - started
    baselines = tuple(
        scores
        for method in BASELINES
        for scores in read_json(options.out / "baselines" / method / EVAL_SUMMARY_NAME)["results"]
    )
    return DemoResult(options, tuple(stages), report, baselines, seconds)


def claim_folder(options: DemoOptions, overwrite: bool) -> None:
    """Make `options.out` the folder of this demo: new, or an earlier demo with the same options."""
    out, marker = options.out, options.out / MARKER
    if out.exists() and any(out.iterdir()):
        if not marker.exists():
            raise InvalidInputError(f"{out}: exists and is not a demo; choose another --out")
        if overwrite:
            shutil.rmtree(out)
        elif read_json(marker) != options.record():
            raise UsageError(
                f"{out}: holds a demo with other settings; add --overwrite or choose another --out"
            )
    write_json(marker, options.record())


def demo_stages(options: DemoOptions) -> list[Stage]:
    """The stages of the demo, in order."""
    out = options.out
    world, index = out / "world", out / "index"
    make_world = ("data", "make-world", "--out", str(world), *HARD_START, "--overwrite")
    build = ("index", "build", f"{world}/corpus.jsonl", "--out", str(index), "--overwrite")
    return [
        Stage("world", (Command(make_world, world / "world.json"),)),
        Stage("index", (Command(build, index / "manifest.json"),)),
        Stage("warm start (SFT)", (_train(options, "warmstart", _warm_start_settings(options)),)),
        Stage("GRPO and TSPO", tuple(_train(options, arm, _arm_settings(options)) for arm in ARMS)),
        Stage(
            "direct and RAG with the same model",
            tuple(_evaluate(options, method) for method in BASELINES),
        ),
    ]


def page_path(out: Path) -> Path:
    """The report page of a demo."""
    return out / "report.html"


def _warm_start_settings(options: DemoOptions) -> list[str]:
    paths = [] if options.out == DEFAULT_OUT else [f"data.world={options.out}/world"]
    return [*paths, *(QUICK_WARM_START if options.quick else ())]


def _arm_settings(options: DemoOptions) -> list[str]:
    out = options.out
    paths = [f"model.path={out}/warmstart/{MODEL_NAME}", f'data.train=["{out}/world/train.jsonl"]']
    return [
        *([] if out == DEFAULT_OUT else paths),
        *(QUICK_ARM if options.quick else ()),
        *options.settings,
    ]


def _train(options: DemoOptions, recipe: str, settings: Sequence[str]) -> Command:
    """`tspo train tiny/RECIPE`. The recipes themselves name the paths below DEFAULT_OUT."""
    out = options.out
    run = out / recipe
    paths = [f"retriever.index={out}/index", f'eval.data=["{out}/world/test.jsonl"]']
    pairs = [
        *([f"seed={options.seed}"] if options.seed else []),
        *([] if out == DEFAULT_OUT else paths),
        *settings,
    ]
    resume = ("--resume",) if (run / STATUS_NAME).exists() else ()
    words = [word for pair in pairs for word in ("--set", pair)]
    arguments = ("train", f"tiny/{recipe}", "--out", str(run), *words, *resume)
    return Command(arguments, run / STATUS_NAME)


def _evaluate(options: DemoOptions, method: str) -> Command:
    """`tspo eval` of the TSPO model with a prompting method. The tiny policy was taught to close
    its answers: words without the closing tag are no answer of it.
    """
    out = options.out
    folder = out / "baselines" / method
    data = ("--data", f"{out}/world/test.jsonl", "--index", f"{out}/index")
    target = ("--method", method, "--answer", "tags", "--out", str(folder), "--overwrite")
    return Command(("eval", f"{out}/tspo", *data, *target), folder / EVAL_SUMMARY_NAME)


def _report(out: Path, as_json: bool) -> str:
    """`tspo report`, which writes the page; its table, or its JSON."""
    page = page_path(out)
    command = Command(("report", str(out), "--html", str(page)), page)
    done = subprocess.run(
        [*command.argv, *(["--format", "json"] if as_json else [])],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    command.check_exit(done.returncode)
    return done.stdout


def _run(commands: Sequence[Command], out: Path) -> None:
    """Run the commands at the same time if there is a core for each, else one after the other. The
    first failure stops the others.
    """
    if not commands:
        return
    if len(commands) == 1:
        done = subprocess.run(commands[0].argv, stdout=subprocess.DEVNULL, check=False)
        commands[0].check_exit(done.returncode)
        return
    together = len(commands) if (os.cpu_count() or 1) >= len(commands) else 1
    for start in range(0, len(commands), together):
        _run_together(commands[start : start + together], out)


def _run_together(commands: Sequence[Command], out: Path) -> None:
    logs = [out / "logs" / f"{command.folder.name}.log" for command in commands]
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    processes = []
    for command, path in zip(commands, logs, strict=True):
        path.parent.mkdir(exist_ok=True)
        with open(path, "w", encoding="utf-8") as log:
            processes.append(
                subprocess.Popen(
                    command.argv, env=environment, stdout=subprocess.DEVNULL, stderr=log
                )
            )
    try:
        _wait(commands, processes, logs)
    finally:
        for process in processes:
            if process.poll() is None:
                process.terminate()
            process.wait()


def _wait(
    commands: Sequence[Command],
    processes: Sequence[subprocess.Popen[bytes]],
    logs: Sequence[Path],
) -> None:
    """Wait for all processes and show the progress of the runs, read from their metrics."""
    folders = [command.folder for command in commands]
    label = " + ".join(folder.name for folder in folders)
    with progress(label, 100 if commands[0].is_training else None) as advance:
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
