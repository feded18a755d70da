"""The loop of every training run: steps, records, evaluations, checkpoints, export.

Within a step, metrics are written first, then the evaluation, then the checkpoint. When a run is
killed, everything up to the newest checkpoint is on disk; a resumed run writes the rest again, byte
for byte the same.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from tspo_cli.console import progress
from tspo_cli.disk import WriteError
from tspo_cli.record_digests import note_digests
from tspo_cli.rollout.agent_file import write_agent_file
from tspo_cli.rollout.records import GroupRecord
from tspo_cli.runs import (
    ADAPTER_NAME,
    METRICS_NAME,
    MODEL_NAME,
    QUESTIONS_NAME,
    TIMINGS_NAME,
    append_jsonl,
    log_line,
    read_jsonl,
    read_status,
    rollout_file,
    seal_run,
    set_status,
    write_jsonl_gz,
)
from tspo_cli.training.announce import loop_options, step_line
from tspo_cli.training.best import keep_best
from tspo_cli.training.core.distributed import barrier
from tspo_cli.training.core.export import export_adapter, exported_model, rounding_note
from tspo_cli.training.core.stop_points import agree_to_stop, may_be_abandoned
from tspo_cli.training.early_stop import StopRule, parse_rules
from tspo_cli.training.launch.same_experiment import adopt_settings
from tspo_cli.training.launch.saved_steps import SavedSteps, restore, saved_at_stop
from tspo_cli.training.launch.training_run import TrainingRun
from tspo_cli.training.remedies.best_checkpoint import (
    forget_later_checkpoints,
    keep_best_checkpoint,
)
from tspo_cli.training.remedies.remedy import Remedies
from tspo_cli.training.telemetry.profiling import step_profiler
from tspo_cli.training.telemetry.rollout_load import RolloutLoad
from tspo_cli.training.telemetry.step_measures import StepMeasures
from tspo_cli.training.telemetry.tracking import Track, evaluation_values, step_values, tracker


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one training step returns on every process: metrics, seconds by part, records of its
    rollouts, sentences that warn of a step without effect, what its rollouts asked of others, and
    the step's line of RUN/questions.jsonl, None where there is no such file.
    """

    metrics: dict[str, float]
    timings: dict[str, float]
    rollouts: list[GroupRecord] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    load: RolloutLoad = field(default_factory=RolloutLoad)
    questions: dict[str, Any] | None = None


MakeStep = Callable[[int, bool], StepResult]
"""(step, is_kept): make a training step, numbered from 1. If `is_kept`, a checkpoint follows it."""

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
    rules = parse_rules(config.train.stop_when, config.kind)
    for line in loop_options(config):
        run.log(line)
    if resume:
        run.warnings.extend(read_status(run.directory).get("warnings", []))
    for sentence in warnings:
        run.warn(sentence)
    saves = restore(run) if resume else SavedSteps(run, step=0, saved=0)
    done = saves.step
    if resume and run.is_main_process:
        forget_later_checkpoints(run.directory, done)
        adopt_settings(config, run.directory, run.attempt)
    rows = read_jsonl(run.directory / METRICS_NAME)
    remedies = Remedies(run, rows)
    reason = (_stop_reason(run, rules, rows) or remedies.stop_reason) if rows else None
    measure = StepMeasures(run.learner.core)
    profiler = step_profiler(run.directory, done + 1, config.track.profile)
    with (
        _status(run, saves, done, reason) as reached,
        tracker(config, run.directory, is_main_process=run.is_main_process, done=done) as track,
        _progress_bar(run, done) as advance,
        saved_at_stop(saves),
    ):
        if done and (done >= config.train.steps or reason is not None):
            saves.end_with_mean()
        if (done == 0 and config.eval.at_start) or not saves.is_evaluated:
            _evaluate(run, evaluate, done, track)
            saves.end_evaluation()
        began = time.perf_counter()
        for step in range(done + 1, config.train.steps + 1 if reason is None else 0):
            started, cpu_started = time.perf_counter(), time.process_time()
            is_kept = saves.begin_step(step)
            in_force = remedies.before_step(step)
            with profiler(step), may_be_abandoned():
                result = make_step(step, is_kept)
            saves.require_place()
            result = replace(result, metrics=result.metrics | in_force)
            for sentence in result.warnings:
                run.warn(sentence)
            remedies.after_step(step, result.metrics)
            reached(step)
            seconds = {
                "total": time.perf_counter() - started,
                "cpu": time.process_time() - cpu_started,
            }
            per_step = (time.perf_counter() - began) / (step - done)
            line = step_line(
                result.metrics, seconds["total"], per_step * (config.train.steps - step)
            )
            seconds = result.timings | seconds
            measures = measure(result.metrics, seconds, result.load)
            if (held_out := result.metrics.get("eval_loss")) is not None:
                run.log(f"step {step}: eval_loss {held_out:.3f}")
            _record(run, step, result, seconds | measures, line)
            if run.is_main_process:
                track(step, step_values(result.metrics, seconds, measures))
            rows.append(result.metrics)
            reason = _stop_reason(run, rules, rows) or remedies.stop_reason
            last = step == config.train.steps or reason is not None
            is_due = last or bool(config.eval.every and step % config.eval.every == 0)
            saves.end_step(step, is_evaluated=not is_due)
            if last:
                saves.end_with_mean()
            if is_due:
                _evaluate(run, evaluate, step, track)
                saves.end_evaluation()
            if last or is_kept:
                saves.begin_save()
            advance(1, line)
            if reason is not None:
                run.log(f"step {step}: stopped early, because {reason}")
                reached(step, reason)
                break
        saves.finish()
        agree_to_stop()
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


def _export(run: TrainingRun) -> None:
    core, folder = run.learner.core, run.directory
    model, adapter = folder / MODEL_NAME, folder / ADAPTER_NAME
    with exported_model(core, model, run.tokenizer) as new:
        if run.is_main_process:
            write_agent_file(new, run.config)
    if run.config.lora.rank:
        export_adapter(core, adapter)
    if note := rounding_note(core):
        run.log(f"{model}: {note}; these are in {adapter}")


def _record(
    run: TrainingRun, step: int, result: StepResult, timings: dict[str, float], line: str
) -> None:
    if not run.is_main_process:
        return
    keep = run.config.train.keep_rollouts
    if result.rollouts and keep and step % keep == 0:
        path = rollout_file(run.directory, step)
        write_jsonl_gz(path, result.rollouts)
        note_digests(path)
    append_jsonl(run.directory / METRICS_NAME, {"step": step, **result.metrics})
    append_jsonl(run.directory / TIMINGS_NAME, {"step": step, **timings})
    if result.questions is not None:
        append_jsonl(run.directory / QUESTIONS_NAME, result.questions)
    log_line(run.directory, run.attempt, f"step {step} {line}")


def _evaluate(run: TrainingRun, evaluate: Evaluate, step: int, track: Track) -> None:
    if run.config.eval.data:
        if run.engine.weight_version != step:
            run.hand_over(step)
        evaluate(run, step)
        if run.is_main_process:
            track(step, evaluation_values(run.directory, step))
        barrier()
        core, belongs = run.learner.core, run.belongs
        if keep_best(run.config, run.directory, core, run.tokenizer, step, belongs) is not None:
            run.log(f"step {step}: best so far, kept in {run.directory / 'best'}")
        if run.config.train.on_warning == "reset_to_best":
            keep_best_checkpoint(run, step)


def _progress_bar(run: TrainingRun, done: int) -> Any:
    if not run.is_main_process:
        return nullcontext(lambda n=1, note="": None)
    return progress(run.directory.name, run.config.train.steps, bar=False, done=done)


class _SetReached(Protocol):
    def __call__(self, step: int, stopped_early: str | None = None) -> None: ...


@dataclass
class _Reached:
    """How far the run has come: its last step, and the rule that stopped it before its steps."""

    step: int
    stopped_early: str | None = None


@contextmanager
def _status(
    run: TrainingRun, saves: SavedSteps, done: int, stopped_early: str | None
) -> Iterator[_SetReached]:
    """Keep RUN/status.json up to date: running, then finished, or failed or stopped at the step
    that was reached. Where the directory is no longer there, nothing is written.
    """
    at = _Reached(done, stopped_early)

    def reached(step: int, stopped_early: str | None = None) -> None:
        at.step, at.stopped_early = step, stopped_early
        write_state("running")

    def write_state(state: str) -> None:
        if run.is_main_process:
            set_status(run.directory, state, at.step, run.attempt, run.warnings, at.stopped_early)

    def end(state: str) -> None:
        if not saves.is_in_place:
            return  # what stands there now is not ours
        write_state(state)
        if run.is_main_process:
            seal_run(run.directory)

    write_state("running")
    try:
        yield reached
    except (KeyboardInterrupt, SystemExit):
        try:
            end("stopped")
        except (KeyboardInterrupt, SystemExit):  # a second signal came meanwhile
            end("stopped")
            raise
        raise
    except BaseException as error:
        end("failed")
        with suppress(WriteError):  # of a full disk: the error that ended the run says it
            if saves.is_in_place:
                log_line(run.directory, run.attempt, f"failed: {error}")
        raise
    end("finished")
