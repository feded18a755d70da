"""`tspo train`: SFT or RL from an experiment file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tspo_cli.commands.options import (
    Json,
    OverwriteRun,
    ResumeRun,
    RunOut,
    Settings,
    Sources,
    find_inputs_of_training,
    inputs_of_training,
    say_what_is_opened,
)
from tspo_cli.console import result, result_json, say, warn
from tspo_cli.errors import MissingResourceError
from tspo_cli.freed_memory import use_expandable_segments
from tspo_cli.stopping import BEFORE_IT_BEGAN, stop_name, stop_number
from tspo_cli.text.secrets import without_secrets
from tspo_cli.variables import number_in, place_in_launcher

if TYPE_CHECKING:
    from tspo_cli.config.schema import Config
    from tspo_cli.training.start.dry_run import DryRun

WORKER = "tspo_cli.commands.worker"
Launcher = Literal["torchrun", "deepspeed", "slurm"]


def train(
    files: Sources,
    settings: Settings = None,
    out: RunOut = None,
    resume: ResumeRun = False,
    overwrite: OverwriteRun = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Check everything, print the resolved experiment, write nothing."
        ),
    ] = False,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile", help="Trace two steps into RUN/trace (the same as track.profile=true)."
        ),
    ] = False,
    print_launch: Annotated[
        Launcher | None,
        typer.Option(
            "--print-launch", help="Print how to start this run on several GPUs or nodes, and end."
        ),
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes for --print-launch.")] = 1,
    gpus: Annotated[
        int, typer.Option(min=0, help="GPUs per node for --print-launch; 0: none.")
    ] = 8,
    json: Json = False,
) -> None:
    """Train a policy with SFT or RL from an experiment file.

    The run directory keeps the resolved experiment, metrics.jsonl, rollouts, evaluations,
    checkpoints and, in model/, the trained policy. A used run directory is refused unless --resume
    or --overwrite says what to do with it.
    """
    use_expandable_segments()  # before anything imports torch
    from tspo_cli.config.load_config import load_config
    from tspo_cli.config.sections.agent_defaults import same_agent
    from tspo_cli.config.sources import run_name

    settings = [*(settings or []), *(["track.profile=true"] if profile else [])]
    if print_launch is not None:
        from tspo_cli.training.launch.nodes.launch_script import (
            launch_script,
            servers_of_the_node,
        )

        for setting in settings:
            if without_secrets(setting) != setting:
                warn(
                    f"{setting}: the script has the secret of this URL; name the server without "
                    "it, and give its token in an environment variable"
                )
        script = launch_script(
            print_launch, files, settings, out, resume=resume, nodes=nodes, gpus=gpus
        )
        for line in servers_of_the_node(load_config(files, settings), print_launch, nodes):
            warn(line)
        if json:
            result_json({"launcher": print_launch, "script": script})
        else:
            result(script)
        return
    config = load_config(files, settings)
    run = out or Path("runs") / run_name(files[-1])
    with same_agent(config.model.path), _saying_what_stopped(run):
        _train(config, run, resume=resume, overwrite=overwrite, dry_run=dry_run, json=json)


def _train(
    config: Config, run: Path, *, resume: bool, overwrite: bool, dry_run: bool, json: bool
) -> None:
    from tspo_cli.arithmetic import compute_portably
    from tspo_cli.config.load_config import to_toml
    from tspo_cli.text.secrets import values_without_secrets, without_secrets
    from tspo_cli.training.announce import loop_options
    from tspo_cli.training.launch.claim import check_run_place
    from tspo_cli.training.problems import (
        launch_warnings,
        refuse_problems,
        refuse_servers_of_launch,
    )
    from tspo_cli.training.sft.epochs import with_steps_of_epochs

    refuse_problems(config)
    if not dry_run:
        refuse_servers_of_launch(config)
    compute_portably(config.train.portable)
    config = with_steps_of_epochs(config)
    number, _ = place_in_launcher()
    is_first = number == 0
    if is_first:
        check_run_place(run)
        if not dry_run:
            for sentence in launch_warnings(config):
                warn(sentence)
        with _saying_how_to_prepare(config):
            find_inputs_of_training(config)
        say_what_is_opened(config.model.path, inputs_of_training(config))
    if dry_run:
        with _saying_how_to_prepare(config):
            if resume:
                _check_resumed(config, run)
            found = _check_inputs(config, run)
        # The experiment first: on a terminal its hundreds of lines would push away what was found.
        if json:
            result_json(values_without_secrets(config.section_dict()))
        else:
            result(without_secrets(to_toml(config)))
        for line in (*found.lines, *loop_options(config)):
            say(line)
        for sentence in found.warnings:
            warn(sentence)
        return

    from tspo_cli.evaluation.judging.training_judge import check_training_judge
    from tspo_cli.training.launch.processes import launch

    if is_first:
        check_training_judge(config)
    with _saying_how_to_prepare(config):
        launch(config, run, train_here, WORKER, resume=resume, overwrite=overwrite)
    if is_first:
        _print_summary(run, json)


@contextmanager
def _saying_what_stopped(run: Path) -> Iterator[None]:
    """Say which signal ended the start of a training. One that has begun writes RUN/status.json,
    and says so itself.
    """
    before = _status_time(run)
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as error:
        if (number := stop_number(error)) and _status_time(run) == before:
            say(f"{stop_name(number)}: {BEFORE_IT_BEGAN}")
        raise


def _status_time(run: Path) -> int | None:
    from tspo_cli.runs import STATUS_NAME

    with suppress(OSError):
        return (run / STATUS_NAME).stat().st_mtime_ns
    return None


@contextmanager
def _saying_how_to_prepare(config: Config) -> Iterator[None]:
    try:
        yield
    except MissingResourceError as error:
        if not config.prepare:
            raise
        *others, last = error.args
        raise MissingResourceError(
            *others, f"{last}; this experiment needs first: {config.prepare}"
        ) from error


def train_here(config: Config, run: Path, attempt: int, resume: bool) -> None:
    """Train in this process: the training loop, with evaluation handed to it."""
    from tspo_cli.evaluation.in_training import make_evaluator, require_its_questions
    from tspo_cli.evaluation.judging.training_judge import open_training_judge
    from tspo_cli.training.run import train as train_run

    if resume:
        require_its_questions(config, run)
    judge = open_training_judge(config, run, number_in("RANK", 0))
    train_run(config, run, make_evaluator(config), attempt=attempt, resume=resume, judge=judge)


def _check_resumed(config: Config, run: Path) -> None:
    """Refuse another experiment than that of the run, or one that lacks a record, as --resume
    would.
    """
    from tspo_cli.config.load_config import read_resolved
    from tspo_cli.evaluation.in_training import require_its_questions
    from tspo_cli.runs import is_run
    from tspo_cli.training.launch.claim import has_trained, require_records
    from tspo_cli.training.launch.same_experiment import check_same_experiment

    require_records(run)
    if is_run(run) and has_trained(run):
        check_same_experiment(read_resolved(run), config, run)
        require_its_questions(config, run)


def _check_inputs(config: Config, run: Path) -> DryRun:
    """Open data, index and model as training would; what was found, and what to mind."""
    from tspo_cli.evaluation.judging.training_judge import check_training_judge
    from tspo_cli.evaluation.sets import read_eval_sets
    from tspo_cli.training.start.dry_run import dry_run

    sets = read_eval_sets(config.eval.data, config.eval.limit)
    check_training_judge(config)
    return dry_run(config, run, {name: len(questions) for name, questions in sets.items()})


def _print_summary(run: Path, json: bool) -> None:
    from tspo_cli.runs import MODEL_NAME, STATUS_NAME, eval_steps, read_json, scores_files

    summary: dict[str, Any] = {
        "run": str(run),
        "model": str(run / MODEL_NAME) if (run / MODEL_NAME).is_dir() else None,
        **read_json(run / STATUS_NAME),
        "eval": [],
    }
    steps = eval_steps(run)
    if steps:
        summary["eval"] = [read_json(path) for path in scores_files(steps[-1][1])]
    if json:
        result_json(summary)
        return
    model = summary["model"] or "none (train.export_model is false)"
    result(f"run    {run} ({summary['state']} at step {summary['step']})\nmodel  {model}")
    for scores in summary["eval"]:
        result(
            f"eval   {scores['dataset']}: EM {scores['em']:.3f}, F1 {scores['f1']:.3f}, n "
            f"{scores['n']}"
        )
