"""The demo: every stage is a `tspo` command that a user could type, run as a process of its own."""

from __future__ import annotations

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tspo_cli.config.load_config import load_config
from tspo_cli.config.schema import Config
from tspo_cli.console import say, width
from tspo_cli.demo.demo_commands import (
    ARMS,
    BASELINES,
    WARM_START,
    Command,
    DemoOptions,
    Stage,
    demo_stages,
    page_path,
    train_settings,
)
from tspo_cli.demo.demo_folder import check_folder, claimed_folder
from tspo_cli.demo.demo_processes import ended, run_commands, start
from tspo_cli.packages import require_packages
from tspo_cli.reporting.tables.evaluation_table import scores_table
from tspo_cli.rollout.prompts import prompt_style
from tspo_cli.runs import EVAL_SUMMARY_NAME, read_json
from tspo_cli.training.problems import refuse_problems

_PROVES_NOTHING = (
    "One seed proves nothing: repeat with --seed 1, --seed 2, ... (and another --out) before you "
    "believe a gap."
)
_WORKS = (
    "All of it works. So few steps teach nothing: to see a model learn, run the demo without "
    "--quick (and with another --out)."
)


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
                scores_table(self.baselines, width=width(), rest=f"{out}/baselines/*/*.json"),
                f"\ntime   {sum(self.seconds.values()):.0f} s in all: {times}",
                f"runs   {out}/{{warmstart,grpo,tspo}}   world {out}/world   index {out}/index",
                f"page   {page_path(out)}",
                _WORKS if self.options.quick else _PROVES_NOTHING,
            ]
        )


def run_demo(options: DemoOptions, *, overwrite: bool, as_json: bool) -> DemoResult:
    """Run every stage that is not finished yet, then the report.

    Raises:
        InvalidInputError: the folder exists and holds something other than a demo, another process
            runs a demo in it, or the settings are not valid.
        UsageError: it holds a demo with other options, and `overwrite` is not given.
        MissingResourceError: a setting names a model, data or an index that does not exist.
        TspoError: a command failed; the error has its exit code.
    """
    check_folder(options.out)
    check_experiments(options)
    with claimed_folder(options, overwrite) as lock:
        return _run_stages(options, as_json, lock)


def _run_stages(options: DemoOptions, as_json: bool, lock: int) -> DemoResult:
    stages = demo_stages(options)
    seconds: dict[str, float] = {}
    for number, stage in enumerate(stages, start=1):
        say(f"[{number}/{len(stages)}] {stage.title}")
        started = time.perf_counter()
        for command in stage.commands:
            say(f"  $ {command.text}" + ("   (done before)" if command.finished() else ""))
        left = [command for command in stage.commands if not command.finished()]
        run_commands(left, options.out, lock)
        seconds[stage.title] = time.perf_counter() - started
        say(f"  {seconds[stage.title]:.1f} s")
    started = time.perf_counter()
    report = _report(options.out, as_json, lock)
    seconds["report"] = time.perf_counter() - started
    baselines = tuple(
        scores
        for method in BASELINES
        for scores in read_json(options.out / "baselines" / method / EVAL_SUMMARY_NAME)["results"]
    )
    return DemoResult(options, tuple(stages), report, baselines, seconds)


def _report(out: Path, as_json: bool, lock: int) -> str:
    """`tspo report`, which writes the page; its table, or its JSON."""
    page = page_path(out)
    command = Command(("report", str(out), "--html", str(page)), page)
    words = [*command.arguments, *(["--format", "json"] if as_json else [])]
    process = start(words, lock, stdout=subprocess.PIPE)
    with ended([process]):
        text, _ = process.communicate()
    command.check_exit(process.returncode)
    return text.decode("utf-8")


def check_experiments(options: DemoOptions) -> None:
    """Read every experiment, and open what settings of the user name outside the folder of the
    demo: a later stage would find it missing only after minutes.

    Raises:
        InvalidInputError, MissingResourceError, RemoteServiceError: as `tspo train`.
    """
    for recipe in (WARM_START, *ARMS):
        config = load_config([f"tiny/{recipe}"], train_settings(options, recipe))
        refuse_problems(config)
        require_packages(config)
        if recipe != WARM_START:
            _open_own(config, options.out.resolve())


def _open_own(config: Config, out: Path) -> None:
    def is_made(path: str) -> bool:
        return Path(path).resolve().is_relative_to(out)

    prompt_style(config.rollout.prompt)
    if not is_made(config.model.path):
        from tspo_cli.training.policy import starting_policy

        starting_policy(config, "cpu")
    if not is_made(config.retriever.index):
        from tspo_cli.retrieval.open_retriever import open_retriever

        open_retriever(config.retriever)
    if not any(map(is_made, config.data.train)):
        from tspo_cli.training.rl.question_batches import read_training_questions

        read_training_questions(config)
    if not any(map(is_made, config.eval.data)):
        from tspo_cli.evaluation.sets import read_eval_sets

        read_eval_sets(config.eval.data, config.eval.limit)
