"""The frame of every training run: steps, records, evaluations, checkpoints, export.

Order within a step: metrics are written, then an evaluation, then the checkpoint. Whatever kills
the run, everything up to the newest checkpoint is on disk, and what came after it is written again,
the same.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tspo_cli.config.schema import Config
from tspo_cli.console import progress, say
from tspo_cli.retrieval.types import Retriever
from tspo_cli.rollout.agent_file import write_agent_file
from tspo_cli.rollout.engines.engine_protocol import Engine, TokenizerLike
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.rollout.records import GroupRecord
from tspo_cli.runs import (
    METRICS_NAME,
    MODEL_NAME,
    TIMINGS_NAME,
    append_jsonl,
    checkpoint_folder,
    eval_steps,
    keep_steps_up_to,
    log_line,
    read_jsonl,
    rollout_file,
    rollout_files,
    set_status,
    write_jsonl_gz,
)
from tspo_cli.training.announce import loop_options
from tspo_cli.training.best import forget_later, keep_best
from tspo_cli.training.core.checkpoint import (
    latest_checkpoint,
    load_checkpoint,
    prune,
    save_checkpoint,
)
from tspo_cli.training.core.distributed import barrier, rank
from tspo_cli.training.core.handover import hand_over
from tspo_cli.training.core.learner import Learner
from tspo_cli.training.early_stop import StopRule, parse_rules
from tspo_cli.training.profiling import step_profiler
from tspo_cli.training.tracking import tracker


@dataclass(frozen=True, slots=True)
class Step:
    """What one training step hands to the frame: metrics, seconds by part, rollout records (on
    every process).
    """

    metrics: dict[str, float]
    timings: dict[str, float]
    rollouts: list[GroupRecord] = field(default_factory=list)


@dataclass(frozen=True)
class Workshop:
    """Everything that a run works with."""

    config: Config
    run: Path
    attempt: int
    tokenizer: TokenizerLike
    protocol: SearchProtocol
    learner: Learner
    engine: Engine
    retriever: Retriever | None
    critic: Learner | None = None

    @property
    def chief(self) -> bool:
        """True on the process that writes."""
        return rank() == 0

    def hand_over(self, step: int) -> None:
        """Give the engine the learner's weights of `step`."""
        hand_over(self.learner, self.engine, self.protocol, self.config, step)

    def note(self, message: str) -> None:
        """Say it and keep it in the attempt's log."""
        if self.chief:
            say(message)
            log_line(self.run, self.attempt, message)


Evaluate = Callable[[Workshop, int], None]
"""Score the policy of a workshop at a step; every process calls it, the first one writes."""


def train_loop(
    shop: Workshop, take_step: Callable[[int], Step], evaluate: Evaluate, *, resume: bool
) -> None:
    """Run all steps of `shop.config` and export the model; with `resume` from the newest checkpoint
    on.
    """
    config = shop.config
    rules = parse_rules(config.train.stop_when)
    for line in loop_options(config):
        shop.note(line)
    done = _restore(shop) if resume else 0
    rows = [row for row in read_jsonl(shop.run / METRICS_NAME) if row["step"] <= done]
    profiler = step_profiler(shop.run, done + 1, config.track.profile)
    with (
        _status(shop) as reached,
        tracker(config, shop.run, shop.chief) as track,
        _bar(shop, done) as advance,
    ):
        if done == 0 and config.eval.at_start:
            _evaluate(shop, evaluate, 0)
        for step in range(done + 1, config.train.steps + 1):
            started, cpu_started = time.perf_counter(), time.process_time()
            with profiler(step):
                outcome = take_step(step)
            reached(step)
            _record(
                shop,
                step,
                outcome,
                time.perf_counter() - started,
                time.process_time() - cpu_started,
            )
            if shop.chief:
                track(step, outcome.metrics)
            rows.append(outcome.metrics)
            reason = _stop_reason(shop, rules, rows)
            last = step == config.train.steps or reason is not None
            if last or (config.eval.every and step % config.eval.every == 0):
                _evaluate(shop, evaluate, step)
            if last or (config.checkpoint.every and step % config.checkpoint.every == 0):
                save_checkpoint(
                    shop.learner,
                    checkpoint_folder(shop.run, step),
                    {"step": step},
                    shop.critic,
                )
                if shop.chief:
                    prune(shop.run, config.checkpoint.keep)
            advance(1, _note(outcome.metrics))
            if reason is not None:
                shop.note(f"step {step}: stopped early, because {reason}")
                break
        shop.learner.export(shop.run / MODEL_NAME, shop.tokenizer)
        if config.lora.rank:
            shop.learner.export_adapter(shop.run / "adapter")
        if shop.chief:
            write_agent_file(shop.run / MODEL_NAME, config)
        barrier()


def _stop_reason(
    shop: Workshop, rules: Sequence[StopRule], rows: Sequence[Mapping[str, float]]
) -> str | None:
    """The first rule of train.stop_when that holds; a metric that the first step does not have is
    told.
    """
    for rule in rules:
        if len(rows) == 1 and rule.metric not in rows[0]:
            shop.note(
                f"train.stop_when: step 1 has no metric {rule.metric}; it has: "
                f"{', '.join(sorted(rows[0]))}"
            )
        if rule.holds(rows):
            return rule.text
    return None


def _restore(shop: Workshop) -> int:
    """Load the newest checkpoint and drop what was written after it. Returns its step, 0 without
    one.
    """
    newest = latest_checkpoint(shop.run)
    step = (
        int(load_checkpoint(shop.learner, newest, shop.critic)["step"]) if newest is not None else 0
    )
    if shop.chief:
        for name in (METRICS_NAME, TIMINGS_NAME):
            keep_steps_up_to(shop.run / name, step)
        for later, folder in eval_steps(shop.run):
            if later > step or step == 0:
                shutil.rmtree(folder)
        for later, path in rollout_files(shop.run):
            if later > step:
                path.unlink()
        forget_later(shop.run, step)
    shop.note(
        f"resume after step {step}" if step else "no checkpoint yet: start from the beginning"
    )
    shop.hand_over(step)
    barrier()
    return step


def _record(shop: Workshop, step: int, outcome: Step, seconds: float, cpu_seconds: float) -> None:
    if not shop.chief:
        return
    keep = shop.config.train.keep_rollouts
    if outcome.rollouts and keep and step % keep == 0:
        write_jsonl_gz(rollout_file(shop.run, step), outcome.rollouts)
    append_jsonl(shop.run / METRICS_NAME, {"step": step, **outcome.metrics})
    append_jsonl(
        shop.run / TIMINGS_NAME,
        {"step": step, **outcome.timings, "total": seconds, "cpu": cpu_seconds},
    )
    log_line(shop.run, shop.attempt, f"step {step} {_note(outcome.metrics)}")


def _evaluate(shop: Workshop, evaluate: Evaluate, step: int) -> None:
    if shop.config.eval.data:
        if shop.engine.weight_version != step:
            shop.hand_over(step)
        evaluate(shop, step)
        barrier()
        if keep_best(shop.config, shop.run, shop.learner, shop.tokenizer, step) is not None:
            shop.note(f"step {step}: best so far, kept in {shop.run / 'best'}")


def _note(metrics: dict[str, float]) -> str:
    shown = ("reward", "loss", "agent_loss")
    return " ".join(f"{name} {metrics[name]:.3f}" for name in shown if name in metrics)


def _bar(shop: Workshop, done: int) -> Any:
    if not shop.chief:
        return nullcontext(lambda n=1, note="": None)
    return progress(shop.run.name, shop.config.train.steps - done)


@contextmanager
def _status(shop: Workshop) -> Iterator[Callable[[int], None]]:
    """Keep RUN/status.json true: running, then finished, or failed or stopped at the step that was
    reached.
    """
    step = 0

    def reached(now: int) -> None:
        nonlocal step
        step = now
        say_state("running")

    def say_state(state: str) -> None:
        if shop.chief:
            set_status(shop.run, state, step, shop.attempt)

    say_state("running")
    try:
        yield reached
    except (KeyboardInterrupt, SystemExit):
        say_state("stopped")
        raise
    except BaseException as error:
        say_state("failed")
        log_line(shop.run, shop.attempt, f"failed: {error}")
        raise
    say_state("finished")
