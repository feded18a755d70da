"""A real language model learns to search on real questions, on one machine.

    python experiments/real/run.py --data DIR --steps N     what `make real DATA=DIR STEPS=N` runs
    python experiments/real/run.py --data DIR --dry-run     its commands and their time, no more

Makes a corpus, an index and demonstrations, warm-starts SmolLM2-135M-Instruct on them, trains it
with GRPO and with TSPO, and ends with a table and a page. Every stage is a `tspo` command that is
printed before it runs. Stages that an earlier call with the same settings has finished are not
repeated: after Ctrl-C the same command goes on.

Run it in the checkout with the environment's Python.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from experiments.real.stages import (
    AUTO,
    DEFAULT_OUT,
    HUB,
    Machine,
    RealOptions,
    Stage,
    Training,
    page_path,
    real_stages,
)
from tspo_cli.commands.signals import all_is_in_order, end_on_signals
from tspo_cli.console import counted, duration, error, result, say
from tspo_cli.data.corpus.set_sources import find_sources
from tspo_cli.demo.demo_commands import Command
from tspo_cli.demo.demo_processes import ended, run_commands, start
from tspo_cli.disk import one_writer
from tspo_cli.errors import InvalidInputError, TspoError, UsageError
from tspo_cli.models.load_model import model_config
from tspo_cli.runs import read_json, write_json

MARKER = "real.json"
STEADY = 30.0
"""Seconds from which the time of a stage says something about the machine."""


def main(words: Sequence[str] | None = None) -> int:
    """Do what the command line says. Gives the exit code, which means what it does for `tspo`."""
    options, is_dry = _options(words)
    try:
        if is_dry:
            stages = real_stages(options, Machine.here())
            _refuse_early(options, stages)
            _say_plan(stages, with_commands=True)
            say(f"then the table and the page: {page_path(options.out)}")
        else:
            run(options)
    except TspoError as failure:
        error(failure)
        return failure.exit_code
    except KeyboardInterrupt:
        say("stopped; the same command goes on from here")
        return 130
    return 0


def run(options: RealOptions) -> None:
    """Run every stage that is not finished yet, then the report.

    Raises:
        UsageError: the folder holds results of other settings.
        InvalidInputError: it holds something else, or another process works in it.
        MissingResourceError: no model, or data that is not there.
        TspoError: a command failed; the error has its exit code.
    """
    machine, began = Machine.here(), time.perf_counter()
    stages = real_stages(options, machine)
    _refuse_early(options, stages)
    with _claimed(options) as lock:
        _run_stages(stages, options, machine, lock)
        result(_report(options.out, lock).rstrip())
    result(
        f"\npage   {page_path(options.out)}\ntime   {duration(time.perf_counter() - began)}\n"
        "One seed and few questions prove nothing: look at the intervals, and compare over seeds "
        "(experiments/evidence/real)."
    )


def prepare(options: RealOptions) -> None:
    """The stages before RL: from the corpus to the warm start.

    Raises:
        TspoError: as `run`.
    """
    machine = Machine.here()
    stages = real_stages(options, machine)[:-1]
    _refuse_early(options, stages)
    with _claimed(options) as lock:
        _run_stages(stages, options, machine, lock)


def _refuse_early(options: RealOptions, stages: Sequence[Stage]) -> None:
    """Refuse what a later stage would refuse after minutes or hours. Nothing is written.

    Raises:
        TspoError: the folder, the data, the model or a setting of a training is not right.
    """
    _refuse_other_folder(options)
    if not stages[0].finished():
        find_sources([options.data])
    for stage in stages:
        for command in stage.commands:
            if isinstance(command, Training):
                command.check()
    if options.model:
        model_config(options.model)


def _refuse_other_folder(options: RealOptions) -> None:
    out, marker = options.out, options.out / MARKER
    if marker.exists():
        if read_json(marker) != options.record():
            raise UsageError(
                f"{out}: holds results of other settings, see {marker}; delete the folder, or "
                "choose another one (OUT=DIR)"
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidInputError(f"{out}: exists and is not ours; choose another folder (OUT=DIR)")


@contextmanager
def _claimed(options: RealOptions) -> Iterator[int]:
    """Make the folder the one of these options, and keep others out. Gives the lock."""
    _refuse_other_folder(options)
    with one_writer(options.out, "running this pipeline in it") as lock:
        write_json(options.out / MARKER, options.record())
        yield lock


def _run_stages(stages: Sequence[Stage], options: RealOptions, machine: Machine, lock: int) -> None:
    _say_plan(stages, with_commands=False)
    pace = 1.0  # seconds here for an expected second
    for number, stage in enumerate(stages, start=1):
        left = [command for command in stage.commands if not command.finished()]
        expected = pace * stage.seconds
        when = f"about {duration(expected)}" if left else "done before"
        say(f"[{number}/{len(stages)}] {stage.title}: {when}")
        for command in stage.commands:
            say(f"  $ {command.text}")
        began = time.perf_counter()
        try:
            for first in range(0, len(left), machine.together):
                run_commands(left[first : first + machine.together], options.out, lock)
        except TspoError as failure:
            raise _advised(failure, options) if number == 1 else failure from None
        if left:
            took = time.perf_counter() - began
            say(f"  took {duration(took)}")
            if took > STEADY and left == [*stage.commands]:
                pace = took / stage.seconds


def _say_plan(stages: Sequence[Stage], *, with_commands: bool) -> None:
    left = [stage for stage in stages if not stage.finished()]
    total = sum(stage.seconds for stage in left)
    say(
        f"{len(left)} of {counted(len(stages), 'stage')} to do, about {duration(total)} by "
        "measurements on a quiet CPU (a GPU takes less)"
    )
    for stage in left:
        say(f"{duration(stage.seconds):>8}  {stage.title}")
        if with_commands:
            for command in stage.commands:
                result(command.text)


def _advised(failure: TspoError, options: RealOptions) -> TspoError:
    """What to do when the corpus cannot be made, for want of a network most of the time."""
    if options.data != HUB:
        return failure
    advised = TspoError(
        f"{failure}; to do without the Hugging Face hub name data of your own (DATA=DIR): a folder "
        "with corpus.jsonl.gz and questions.jsonl.gz, or a file that `tspo data make-corpus` takes"
    )
    advised.exit_code = failure.exit_code
    return advised


def _report(out: Path, lock: int) -> str:
    """`tspo report`, which writes the page; its table."""
    page = page_path(out)
    command = Command(("report", str(out), "--html", str(page)), page)
    say(f"  $ {command.text}")
    return _output(command, lock)


def _output(command: Command, lock: int) -> str:
    process = start(command.arguments, lock, stdout=subprocess.PIPE)
    with ended([process]):
        text, _ = process.communicate()
    command.check_exit(process.returncode)
    return text.decode("utf-8")


def _options(words: Sequence[str] | None) -> tuple[RealOptions, bool]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default=HUB, help=f"folder, file or name on the hub [{HUB}]")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help=f"[{DEFAULT_OUT}]")
    parser.add_argument("--model", default="", help="another model: directory or hub name")
    parser.add_argument(
        "--dtype",
        choices=[AUTO, "float32", "bfloat16"],
        default=AUTO,
        help="numbers of the trainings; auto: bfloat16 where this machine multiplies it [auto]",
    )
    for name, least, meaning in (
        ("steps", 1, "RL steps"),
        ("questions", 1, "held-out questions that are evaluated"),
        ("demos", 1, "demonstrations that are imitated"),
        ("seed", 0, "seed of training and rollouts"),
    ):
        value = getattr(RealOptions(), name)
        kind = _at_least(least)
        parser.add_argument(f"--{name}", type=kind, default=value, help=f"{meaning} [{value}]")
    parser.add_argument(
        *("--set", "-s"),
        dest="settings",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a key of both RL experiments; repeatable",
    )
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    given = vars(parser.parse_args(words))
    is_dry, settings = given.pop("dry_run"), tuple(given.pop("settings"))
    return RealOptions(**given, settings=settings), is_dry


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        value = int(text)
        if value < least:
            raise argparse.ArgumentTypeError(f"expected {least} or more, got {value}")
        return value

    return number


if __name__ == "__main__":
    end_on_signals()
    try:
        code = main()
    finally:
        all_is_in_order()
    sys.exit(code)
