"""The loop of every training run: steps, records, evaluations, checkpoints, export.

Within a step, metrics are written first, then the evaluation, then the checkpoint. When a run is
killed, everything up to the newest checkpoint is on disk; a resumed run writes the rest again, byte
for byte the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tspo_cli.config.schema import Config
from tspo_cli.console import progress, say, warn
from tspo_cli.disk import WriteError, flush_to_disk
from tspo_cli.record_digests import delete_folder, forget_digests, note_digests
from tspo_cli.retrieval.types import Retriever
from tspo_cli.rollout.agent_file import write_agent_file
from tspo_cli.rollout.engines.engine_protocol import Engine
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.rollout.records import GroupRecord
from tspo_cli.runs import (
    CHECKPOINTS_NAME,
    METRICS_NAME,
    MODEL_NAME,
    TIMINGS_NAME,
    append_jsonl,
    checkpoint_folder,
    eval_steps,
    keep_steps_up_to,
    log_line,
    read_jsonl,
    read_status,
    rollout_file,
    rollout_files,
    seal_run,
    set_status,
    write_jsonl_gz,
)
from tspo_cli.training.announce import loop_options, step_line
from tspo_cli.training.best import forget_later, keep_best
from tspo_cli.training.core.checkpoint import (
    find_checkpoint,
    load_checkpoint,
    prune,
    save_checkpoint,
    set_aside,
)
from tspo_cli.training.core.critic import Critic
from tspo_cli.training.core.distributed import barrier, broadcast_json, rank
from tspo_cli.training.core.export import export_adapter, export_model
from tspo_cli.training.core.handover import hand_over
from tspo_cli.training.core.policy_learner import PolicyLearner
from tspo_cli.training.early_stop import StopRule, parse_rules
from tspo_cli.training.launch.replaced_run import forget_replaced
from tspo_cli.training.profiling import step_profiler
from tspo_cli.training.tracking import Track, evaluation_values, step_values, tracker

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one training step returns on every process: metrics, seconds by part, records of its
    rollouts, and sentences that warn of a step without effect.
    """

    metrics: dict[str, float]
    timings: dict[str, float]
    rollouts: list[GroupRecord] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class TrainingRun:
    """Everything that a training run works with. `directory` is its run directory; `warnings` are
    all sentences of `warn` so far, which RUN/status.json keeps.
    """

    config: Config
    directory: Path
    attempt: int
    tokenizer: PreTrainedTokenizerFast
    protocol: SearchProtocol
    learner: PolicyLearner
    engine: Engine
    retriever: Retriever | None
    critic: Critic | None = None
    warnings: list[str] = field(default_factory=list)

    @property
    def is_main_process(self) -> bool:
        """True on the process that writes files and messages."""
        return rank() == 0

    def hand_over(self, step: int) -> None:
        """Give the engine the learner's weights of `step`."""
        hand_over(self.learner, self.engine, self.protocol, self.config, step)

    def log(self, message: str) -> None:
        """Print a message and add it to the attempt's log."""
        if self.is_main_process:
            say(message)
            log_line(self.directory, self.attempt, message)

    def warn(self, message: str) -> None:
        """Print a warning, add it to the attempt's log, and keep it for RUN/status.json."""
        if self.is_main_process:
            if message not in self.warnings:
                self.warnings.append(message)
            warn(message)
            log_line(self.directory, self.attempt, f"warning: {message}")


MakeStep = Callable[[int], StepResult]
"""Make training step `step` (from 1)."""

Evaluate = Callable[[TrainingRun, int], None]
"""Score the policy of a run at a step; every process calls it, the first one writes."""


def train_loop(
    run: TrainingRun,
    make_step: MakeStep,
    evaluate: Evaluate,
    *,
    warnings: Sequence[str] = (),
    resume: bool,
) -> None:
    """Make all steps of `run.config` and export the model; with `resume` continue after the newest
    checkpoint. `warnings` are said first.
    """
    config = run.config
    rules = parse_rules(config.train.stop_when)
    for line in loop_options(config):
        run.log(line)
    if resume:
        run.warnings.extend(read_status(run.directory).get("warnings", []))
    for sentence in warnings:
        run.warn(sentence)
    done = _restore(run) if resume else 0
    rows = read_jsonl(run.directory / METRICS_NAME)
    reason = _stop_reason(run, rules, rows) if rows else None
    profiler = step_profiler(run.directory, done + 1, config.track.profile)
    with (
        _status(run, done, reason) as reached,
        tracker(config, run.directory, run.is_main_process) as track,
        _progress_bar(run, done) as advance,
    ):
        if done == 0 and config.eval.at_start:
            _evaluate(run, evaluate, 0, track)
        began = time.perf_counter()
        for step in range(done + 1, config.train.steps + 1 if reason is None else 0):
            started, cpu_started = time.perf_counter(), time.process_time()
            with profiler(step):
                result = make_step(step)
            for sentence in result.warnings:
                run.warn(sentence)
            reached(step)
            seconds = {
                "total": time.perf_counter() - started,
                "cpu": time.process_time() - cpu_started,
            }
            per_step = (time.perf_counter() - began) / (step - done)
            line = step_line(
                result.metrics, seconds["total"], per_step * (config.train.steps - step)
            )
            _record(run, step, result, seconds, line)
            if run.is_main_process:
                track(step, step_values(result.metrics, result.timings | seconds))
            rows.append(result.metrics)
            reason = _stop_reason(run, rules, rows)
            last = step == config.train.steps or reason is not None
            if last or (config.eval.every and step % config.eval.every == 0):
                _evaluate(run, evaluate, step, track)
            if config.checkpoint.every and (last or step % config.checkpoint.every == 0):
                _save(run, step)
            advance(1, line)
            if reason is not None:
                run.log(f"step {step}: stopped early, because {reason}")
                reached(step, reason)
                break
        if config.train.export_model:
            _export(run)


def _stop_reason(
    run: TrainingRun, rules: Sequence[StopRule], rows: Sequence[Mapping[str, float]]
) -> str | None:
    """The first rule of train.stop_when that holds. A metric that the first step does not have is
    reported.
    """
    for rule in rules:
        if len(rows) == 1 and rule.metric not in rows[0]:
            run.log(
                f"train.stop_when: step 1 has no metric {rule.metric}; it has: "
                f"{', '.join(sorted(rows[0]))}"
            )
        if rule.holds(rows):
            return rule.text
    return None


def _restore(run: TrainingRun) -> int:
    """Load the newest whole checkpoint and drop what was written after it. Returns its step, 0
    without one.

    Raises:
        InvalidInputError: no checkpoint is whole, or the metrics lack a step before it.
    """
    folder, step = _newest_checkpoint(run), 0
    if folder is not None:
        critic = run.critic.core if run.critic is not None else None
        step = int(load_checkpoint(run.learner.core, folder, critic)["step"])
    if run.is_main_process:
        for name in (METRICS_NAME, TIMINGS_NAME):
            keep_steps_up_to(run.directory / name, step)
        for later, folder in eval_steps(run.directory):
            if later > step or step == 0:
                delete_folder(folder)
        again = [path for later, path in rollout_files(run.directory) if later > step]
        forget_digests(*again)
        for path in again:
            path.unlink()
        forget_later(run.directory, step)
        prune(run.directory, run.config.checkpoint.keep)
    run.log(f"resume after step {step}" if step else "no checkpoint yet: start from the beginning")
    run.hand_over(step)
    barrier()
    return step


def _newest_checkpoint(run: TrainingRun) -> Path | None:
    """The checkpoint to go on from. The first process checks it, and sets damaged ones aside."""
    name = None
    if run.is_main_process:
        found = find_checkpoint(run.directory)
        for folder, problem in found.damaged.items():
            run.warn(
                f"{problem}; the checkpoint before it is used, and this one is kept as "
                f"{set_aside(folder).name}"
            )
        name = found.folder.name if found.folder is not None else None
    name = broadcast_json(name)
    return run.directory / CHECKPOINTS_NAME / name if name is not None else None


def _save(run: TrainingRun, step: int) -> None:
    directory = checkpoint_folder(run.directory, step)
    if run.is_main_process:  # a checkpoint never outlives the records of its steps
        paths = [run.directory / name for name in (METRICS_NAME, TIMINGS_NAME)]
        for path in paths:
            flush_to_disk(path)
        note_digests(*paths, grows=True)
    critic = run.critic.core if run.critic is not None else None
    save_checkpoint(run.learner.core, directory, {"step": step}, critic)
    if run.is_main_process:
        prune(run.directory, run.config.checkpoint.keep)
        forget_replaced(run.directory)


def _export(run: TrainingRun) -> None:
    export_model(run.learner.core, run.directory / MODEL_NAME, run.tokenizer)
    if run.config.lora.rank:
        export_adapter(run.learner.core, run.directory / "adapter")
    if run.is_main_process:
        write_agent_file(run.directory / MODEL_NAME, run.config)
    barrier()


def _record(
    run: TrainingRun, step: int, result: StepResult, seconds: dict[str, float], line: str
) -> None:
    if not run.is_main_process:
        return
    keep = run.config.train.keep_rollouts
    if result.rollouts and keep and step % keep == 0:
        path = rollout_file(run.directory, step)
        write_jsonl_gz(path, result.rollouts)
        note_digests(path)
    append_jsonl(run.directory / METRICS_NAME, {"step": step, **result.metrics})
    append_jsonl(run.directory / TIMINGS_NAME, {"step": step, **result.timings, **seconds})
    log_line(run.directory, run.attempt, f"step {step} {line}")


def _evaluate(run: TrainingRun, evaluate: Evaluate, step: int, track: Track) -> None:
    if run.config.eval.data:
        if run.engine.weight_version != step:
            run.hand_over(step)
        evaluate(run, step)
        if run.is_main_process:
            track(step, evaluation_values(run.directory, step))
        barrier()
        if keep_best(run.config, run.directory, run.learner.core, run.tokenizer, step) is not None:
            run.log(f"step {step}: best so far, kept in {run.directory / 'best'}")


def _progress_bar(run: TrainingRun, done: int) -> Any:
    if not run.is_main_process:
        return nullcontext(lambda n=1, note="": None)
    return progress(run.directory.name, run.config.train.steps - done, bar=False)


class _SetReached(Protocol):
    def __call__(self, step: int, stopped_early: str | None = None) -> None: ...


@dataclass
class _Reached:
    """How far the run has come: its last step, and the rule that stopped it before its steps."""

    step: int
    stopped_early: str | None = None


@contextmanager
def _status(run: TrainingRun, done: int, stopped_early: str | None) -> Iterator[_SetReached]:
    """Keep RUN/status.json up to date: running, then finished, or failed or stopped at the step
    that was reached.
    """
    at = _Reached(done, stopped_early)

    def reached(step: int, stopped_early: str | None = None) -> None:
        at.step, at.stopped_early = step, stopped_early
        write_state("running")

    def write_state(state: str) -> None:
        if run.is_main_process:
            set_status(run.directory, state, at.step, run.attempt, run.warnings, at.stopped_early)

    def end(state: str) -> None:
        write_state(state)
        if run.is_main_process:
            seal_run(run.directory)

    write_state("running")
    try:
        yield reached
    except (KeyboardInterrupt, SystemExit):
        end("stopped")
        raise
    except BaseException as error:
        end("failed")
        with suppress(WriteError):  # of a full disk: the error that ended the run says it
            log_line(run.directory, run.attempt, f"failed: {error}")
        raise
    end("finished")
