"""The `tspo` command: its verbs, and the exit code of an error."""

from __future__ import annotations

import inspect as introspection
import os
import sys
from errno import ENOENT
from typing import Annotated, Any, get_type_hints

import typer
import typer.core
import typer.models

from tspo_cli import __version__, console
from tspo_cli.commands import (
    config,
    credit,
    data,
    demo,
    doctor,
    engine,
    eval,
    index,
    inspect,
    launch,
    model,
    plan,
    push,
    report,
    runs,
    serve,
    sweep,
    train,
)
from tspo_cli.commands.signals import all_is_in_order, end_on_signals
from tspo_cli.cpu_threads import yield_waiting_cores
from tspo_cli.disk import WriteError, reason
from tspo_cli.errors import InvalidInputError, SaidError, TspoError, UsageError
from tspo_cli.plain_files import BAD_NAMES, cannot_be_read

app = typer.Typer(
    name="tspo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 ok, 1 failure, 2 usage, 3 invalid configuration or data, 4 missing "
    "resource, "
    "5 remote service failed, 6 gate not met, 129/130/138/143 stopped by a signal.",
)

# What typer raises for a wrong command line. (It has a click of its own, which it does not export.)
_CommandLineError: Any = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)
START = "Start"
DATA = "Data and retrieval"
TRAIN = "Train"
COMPARE = "Evaluate and compare"

app.command("demo", rich_help_panel=START)(demo.demo)
app.command("doctor", rich_help_panel=START)(doctor.doctor)
app.command("plan", rich_help_panel=START)(plan.plan)

index.app.command("push")(push.push)
app.add_typer(data.app, name="data", rich_help_panel=DATA)
app.add_typer(index.app, name="index", rich_help_panel=DATA)
app.command("serve", rich_help_panel=DATA)(serve.serve)

app.add_typer(model.app, name="model", rich_help_panel=TRAIN)
app.command("train", rich_help_panel=TRAIN)(train.train)
app.command("launch", rich_help_panel=TRAIN)(launch.launch)
app.command("sweep", rich_help_panel=TRAIN)(sweep.sweep)
app.command("engine", rich_help_panel=TRAIN)(engine.engine)
app.add_typer(config.app, name="config", rich_help_panel=TRAIN)

app.command("eval", rich_help_panel=COMPARE)(eval.evaluate)
app.command("report", rich_help_panel=COMPARE)(report.report)
app.command("inspect", rich_help_panel=COMPARE)(inspect.inspect)
app.add_typer(runs.app, name="runs", rich_help_panel=COMPARE)
app.command("credit", rich_help_panel=COMPARE)(credit.credit)


_QUERIES = "queries"


class _Help:
    """Help that cannot be written names the stream, as a result does."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help to stdout. Raises OSError."""
        try:
            super().format_help(ctx, formatter)  # type: ignore[misc]
        except OSError as failure:
            failure.filename = console.STDOUT
            raise


class _Group(_Help, typer.core.TyperGroup):
    """A group of commands."""


class _Command(_Help, typer.core.TyperCommand):
    """A command of which no option or argument may be empty: an empty path is the working directory
    for Python, and an unset variable of the shell is an empty word.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse empty words, then parse the rest. Raises UsageError."""
        options: list[Any] = [option for option in self.params if not getattr(option, "is_flag", 1)]
        takes_value = {name for option in options for name in option.opts}
        has_queries = any(argument.name == _QUERIES for argument in self.params)
        before = ""
        for number, word in enumerate(() if ctx.resilient_parsing else args):
            name, equals, value = word.partition("=")
            if has_queries and number and not word and before not in takes_value:
                continue  # an empty query fails alone, with its reason
            if not word or (name in takes_value and equals and not value):
                named = name or (before if before in takes_value else "an argument")
                raise UsageError(
                    f"{named}: expected a value, got an empty one (an unset variable of the "
                    f"shell?); see {ctx.command_path} -h"
                )
            before = word
        return super().parse_args(ctx, args)


def _prepare(commands: typer.Typer) -> None:
    """Make every command one of ours, whose paths are opened by the readers of the files, which say
    what to do where that is not allowed. typer would call the command line wrong.
    """
    for command in commands.registered_commands:
        command.cls = _Command
        assert command.callback is not None
        hints = get_type_hints(command.callback, include_extras=True)
        command.callback.__annotations__ |= hints  # typer takes what it finds here
        for hint in hints.values():
            for info in getattr(hint, "__metadata__", ()):
                if isinstance(info, typer.models.ParameterInfo):
                    info.readable = False
    commands.info.cls = _Group
    for group in commands.registered_groups:
        if group.typer_instance is not None:
            _prepare(group.typer_instance)


_prepare(app)


def _fill_help_lines(commands: typer.Typer) -> None:
    """Join the lines of each paragraph of help, which a docstring breaks where its source ends, and
    keep rich from reading [words] as styles.
    """
    for command in commands.registered_commands:
        paragraphs = (introspection.getdoc(command.callback) or "").split("\n\n")
        text = "\n\n".join(" ".join(part.splitlines()) for part in paragraphs)
        command.help = text.replace("[", r"\[")
    for group in commands.registered_groups:
        if group.typer_instance is not None:
            _fill_help_lines(group.typer_instance)


_fill_help_lines(app)


def _version(show: bool) -> None:
    if show:
        console.result(__version__)
        raise typer.Exit


@app.callback()
def tspo(
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print only results: no messages and no progress.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
) -> None:
    """Train, evaluate and compare LLM agents that search over several turns.

    Start with: tspo demo
    """
    console.set_quiet(quiet)


def _refuse(error: Any) -> None:
    """Say what is wrong with a command line, and where its options are described."""
    message = error.format_message()
    if not message or type(error).__name__ == "NoArgsIsHelpError":
        error.show()
        return
    command = error.ctx.command_path if getattr(error, "ctx", None) else "tspo"
    if (option := getattr(error, "option_name", "")) in ("-q", "--quiet"):
        message = f"{option}: expected before the command, as in tspo {option} eval MODEL"
    console.error(f"{message.rstrip('.')}; see {command} -h")


def _keep_working_directory_out() -> None:
    """Let the processes that this one starts look for modules where it does itself: `python -m`
    begins with the working directory, in which a foreign run may lie. The `tspo` command does not.

    Raises:
        FileNotFoundError: the working directory was deleted. Torch's libraries would end Python.
    """
    if not {"", os.getcwd()} & {*sys.path}:
        os.environ["PYTHONSAFEPATH"] = "1"


def _is_nowhere(error: OSError) -> str | None:
    """What to say where a relative path has no meaning."""
    if error.errno == ENOENT and error.filename is None:
        try:
            os.getcwd()
        except FileNotFoundError:
            return "the working directory was deleted; change into another one"
    return None


def main() -> None:
    """Run the command. A TspoError, OSError or a wrong command line is printed, a line each, and
    gives the exit code.
    """
    console.open_streams()
    end_on_signals()
    try:
        _keep_working_directory_out()
        yield_waiting_cores()
        code = app(standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except SaidError as error:
        sys.exit(error.exit_code)
    except TspoError as error:
        for line in error.args or [error]:
            console.error(line)
        sys.exit(error.exit_code)
    except _CommandLineError as error:
        _refuse(error)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno is None:
            raise
        unreadable = None if isinstance(error, WriteError) else cannot_be_read(error)
        console.error(unreadable or _is_nowhere(error) or reason(error))
        sys.exit(InvalidInputError.exit_code if unreadable or error.errno in BAD_NAMES else 1)
    finally:
        all_is_in_order()
