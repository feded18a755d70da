"""Metrics, timings and scores sent to other places than metrics.jsonl: TensorBoard and W&B."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tspo_cli.config.schema import Config
from tspo_cli.console import warn
from tspo_cli.errors import MissingResourceError
from tspo_cli.packages import missing
from tspo_cli.runs import eval_folder, read_json, scores_files, write_json
from tspo_cli.text.secrets import values_without_secrets

Track = Callable[[int, Mapping[str, float]], None]
"""(step, values by name): send them."""

TENSORBOARD_NAME, WANDB_NAME, WANDB_ID_NAME = "tensorboard", "wandb", "wandb.json"
_WANDB_ID = re.compile(r"[a-z0-9]{8}")


@contextmanager
def tracker(config: Config, run: Path, *, is_main_process: bool, done: int) -> Iterator[Track]:
    """A function that sends values to the places that config.track names. On other processes it
    does nothing. The run goes on after step `done`: what TensorBoard has of later ones is hidden.

    Raises:
        MissingResourceError: a package is not installed, or W&B has no key.
    """
    with ExitStack() as stack:
        sinks: list[Track] = []
        if is_main_process and config.track.tensorboard:
            sinks.append(stack.enter_context(_tensorboard(run, done)))
        if is_main_process and config.track.wandb:
            sinks.append(stack.enter_context(_wandb(config, run)))

        def track(step: int, values: Mapping[str, float]) -> None:
            for sink in sinks:
                sink(step, values)

        yield track


def step_values(
    metrics: Mapping[str, float], seconds: Mapping[str, float], measures: Mapping[str, float]
) -> dict[str, float]:
    """The metrics of a step, its seconds as `time/PART`, and its rates and memory."""
    return {**metrics, **{f"time/{part}": value for part, value in seconds.items()}, **measures}


def evaluation_values(run: Path, step: int) -> dict[str, float]:
    """The scores of the evaluation of `step`, as `eval/DATASET/SCORE`."""
    values: dict[str, float] = {}
    for path in scores_files(eval_folder(run, step)):
        scores = read_json(path)
        values |= {
            f"eval/{scores['dataset']}/{name}": float(score)
            for name, score in scores.items()
            if isinstance(score, int | float) and not isinstance(score, bool)
        }
    return values


@contextmanager
def _tensorboard(run: Path, done: int) -> Iterator[Track]:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise missing({"tensorboard": "track.tensorboard"}, str(error)) from None
    purge = done + 1 if done else 0  # the scores of step 0, too
    with SummaryWriter(str(run / TENSORBOARD_NAME), purge_step=purge) as writer:

        def track(step: int, values: Mapping[str, float]) -> None:
            for name, value in values.items():
                writer.add_scalar(name, value, step)

        yield track


@contextmanager
def _wandb(config: Config, run: Path) -> Iterator[Track]:
    """W&B's own variables say where to: WANDB_MODE=offline writes into the run alone. W&B sends
    through a process of its own. Where that is lost, the training goes on without it.
    """
    try:
        import wandb
    except ImportError as error:
        raise missing({"wandb": "track.wandb"}, str(error)) from None
    settings = wandb.Settings(console="off", silent=True, disable_git=True)
    try:
        opened = wandb.init(
            project=os.environ.get("WANDB_PROJECT") or config.track.wandb_project,
            id=_wandb_id(run),
            name=run.resolve().name,
            resume="allow",
            dir=str(run),
            config=values_without_secrets(config.section_dict()),
            settings=settings,
        )
    except wandb.errors.Error as error:
        raise MissingResourceError(
            f"track.wandb: W&B does not start ({str(error).splitlines()[0]}); run `wandb login`, "
            "or set WANDB_MODE=offline and send the run later with `wandb sync`"
        ) from None
    # Of a resumed run the last steps come again: the step is a value, not W&B's own counter.
    opened.define_metric("step")
    opened.define_metric("*", step_metric="step")
    is_lost = False

    def try_to(send: Callable[[], object]) -> None:
        nonlocal is_lost
        if is_lost:
            return
        try:
            send()
        except Exception as error:  # W&B has errors of many kinds, and no training ends for one
            is_lost = True
            what = (str(error).splitlines() or [""])[0] or type(error).__name__
            warn(
                f"track.wandb: W&B does not take values any more ({what}); the run goes on without "
                "it, and metrics.jsonl has them all; --resume sends further ones"
            )
            with suppress(Exception):  # as above; at the end of Python it would try again
                wandb.teardown(1)

    try:
        yield lambda step, values: try_to(lambda: opened.log({"step": step, **values}))
    finally:
        try_to(opened.finish)


def _wandb_id(run: Path) -> str:
    """The id of the run at W&B, which RUN/wandb.json keeps so that a resumed run goes on there."""
    path = run / WANDB_ID_NAME
    kept = read_json(path) if path.exists() else {}
    name = kept.get("id") if isinstance(kept, dict) else None
    if not isinstance(name, str) or not _WANDB_ID.fullmatch(name):
        name = secrets.token_hex(4)
        write_json(path, {"id": name})
    return name
