"""What a report reads from disk: training runs in any state, and evaluations of `tspo eval`."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from pydantic import TypeAdapter

from tspo_cli import runs
from tspo_cli.config.old_records import current_keys, read_record
from tspo_cli.config.sweeps.sweep_record import is_sweep
from tspo_cli.console import counted
from tspo_cli.errors import InvalidInputError, MissingResourceError
from tspo_cli.not_a_run import UNFINISHED, is_unfinished_evaluation, require_run
from tspo_cli.plain_files import require_listable, why_missing
from tspo_cli.record_digests import check_complete, read_checked
from tspo_cli.record_forms import (
    ENVIRONMENT,
    QUESTIONS,
    SCORES,
    STATUS,
    SUMMARY,
    checked,
    checked_step,
)
from tspo_cli.reporting.sources.searched_folders import folders_with
from tspo_cli.text.secrets import values_without_secrets, without_secrets


@dataclass(frozen=True)
class RunView:
    """One run directory, or one folder of `tspo eval`, under the name that the report gives it.

    A view does not change: each file is read at its first use and kept, so that a report of a
    running training shows one state of it. Open the run again to see newer steps.

    `command` began the run, and those of `resumed` went on with it. `method` and `model` are set
    for an evaluation only: the method that answered, and the directory of the model that it used.
    """

    path: Path
    name: str
    config: dict[str, Any]
    status: dict[str, Any]
    command: str
    method: str = ""
    model: str = ""
    resumed: tuple[str, ...] = ()

    @property
    def is_evaluation(self) -> bool:
        """True for a folder of `tspo eval`, which has no training steps."""
        return bool(self.method)

    @property
    def algorithm(self) -> str:
        """The credit algorithm, sft for a run without one, or the method of an evaluation."""
        if self.is_evaluation:
            return self.method
        if self.config.get("kind") == "sft":
            return "sft"
        return str(self.setting("credit.algorithm", "?"))

    @property
    def state(self) -> str:
        """running, finished, failed, stopped or killed; without a record of it, not started where
        there is no step, else unknown.
        """
        return str(self.status.get("state") or ("unknown" if self.metrics else "not started"))

    def setting(self, key: str, default: Any = None) -> Any:
        """The value of a dotted configuration key, `default` where the run has no such key."""
        value: Any = self.config
        for part in key.split("."):
            if not isinstance(value, dict) or part not in value:
                return default
            value = value[part]
        return value

    @cached_property
    def metrics(self) -> tuple[dict[str, Any], ...]:
        """One record per training step."""
        return _read_steps(self.path / runs.METRICS_NAME)

    @cached_property
    def timings(self) -> tuple[dict[str, Any], ...]:
        """Seconds per training step."""
        return _read_steps(self.path / runs.TIMINGS_NAME)

    @cached_property
    def questions(self) -> tuple[dict[str, Any], ...]:
        """What each step drew, in a run whose questions depend on earlier steps; else empty."""
        path = self.path / runs.QUESTIONS_NAME
        return tuple(checked(QUESTIONS, line, str(path)) for line in runs.read_jsonl(path))

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Versions and hardware; empty where they were not recorded."""
        if self.is_evaluation:
            return dict(_read(SUMMARY, self.path / runs.EVAL_SUMMARY_NAME).get("environment") or {})
        path = self.path / runs.ENVIRONMENT_NAME
        return _read(ENVIRONMENT, path) if path.exists() else {}

    @cached_property
    def evaluation_folders(self) -> tuple[tuple[int, Path], ...]:
        """The folders of scores and items as (step, folder); `tspo eval` has one, at step 0."""
        if self.is_evaluation:
            return ((0, self.path),)
        found = runs.eval_steps(self.path)
        for _, folder in found:
            check_complete(folder)
        return tuple(found)

    @cached_property
    def evaluations(self) -> tuple[tuple[int, dict[str, Any]], ...]:
        """All scores as (step, scores), by step and data set.

        Those of `tspo eval` have the order in which the data sets were given.
        """
        if self.is_evaluation:
            summary = _read(SUMMARY, self.path / runs.EVAL_SUMMARY_NAME)
            return tuple((0, scores) for scores in summary["results"])
        return tuple(
            (step, scores_of(path))
            for step, folder in self.evaluation_folders
            for path in runs.scores_files(folder)
        )

    @cached_property
    def last_step(self) -> int:
        """The step of the last evaluation, 0 without any."""
        return max((step for step, _ in self.evaluations), default=0)

    @cached_property
    def last_scores(self) -> dict[str, dict[str, Any]]:
        """The scores of the last evaluation by data set."""
        return {
            str(scores.get("dataset")): scores
            for step, scores in self.evaluations
            if step == self.last_step
        }

    def items_path(self, step: int, dataset: str) -> Path:
        """The file of the evaluated items of a data set at a step; it may be missing."""
        folder = dict(self.evaluation_folders).get(step, runs.eval_folder(self.path, step))
        return runs.items_file(folder, dataset)


def open_run(path: Path, name: str | None = None) -> RunView:
    """The view of one run directory or folder of `tspo eval`.

    Raises:
        InvalidInputError: its configuration, status or summary is not such a record.
        MissingResourceError: it is neither.
    """
    name = name or Path(os.path.realpath(path)).name
    if is_evaluation(path):
        return _open_evaluation(path, name)
    require_run(path)
    check_complete(path)
    command = path / runs.COMMAND_NAME
    text = read_checked(command).decode(errors="replace") if command.exists() else ""
    lines = [without_secrets(line) for line in text.splitlines()]
    return RunView(
        path=path,
        name=name,
        config=read_record(path / runs.CONFIG_NAME),
        status=status_of(path),
        command=lines[0] if lines else "",
        resumed=tuple(lines[1:]),
    )


def status_of(run: Path) -> dict[str, Any]:
    """What RUN/status.json says now, and whether a run that says nothing more was killed; empty
    without the file. Warnings have no secrets.

    Raises:
        InvalidInputError: it is no such record.
    """
    file = run / runs.STATUS_NAME
    status = _read(STATUS, file) if file.exists() else {}
    if status.get("state") == "running":
        status |= {"state": runs.read_status(run)["state"]}
    return cast("dict[str, Any]", values_without_secrets(status))


def scores_of(path: Path) -> dict[str, Any]:
    """The scores of a data set, from their file.

    Raises:
        InvalidInputError: it is no such record.
    """
    return _read(SCORES, path)


def is_evaluation(path: Path) -> bool:
    """True for a folder that `tspo eval` finished."""
    return not runs.is_run(path) and (path / runs.EVAL_SUMMARY_NAME).exists()


def _open_evaluation(path: Path, name: str) -> RunView:
    check_complete(path)
    file = path / runs.EVAL_SUMMARY_NAME
    summary = _read(SUMMARY, file)
    return RunView(
        path=path,
        name=name,
        config=current_keys(summary.get("config") or {}),
        status={"state": "finished"},
        command=without_secrets(str(summary.get("command", ""))),
        method=str(summary.get("method") or "?"),
        model=str(summary.get("model", "")),
    )


def open_runs(paths: Sequence[Path]) -> list[RunView]:
    """All runs and evaluations at or below `paths`, runs first.

    Each is named by its path below the folder that all `paths` share.

    Raises:
        MissingResourceError: a path does not exist or holds no run and no evaluation.
    """
    return [open_run(folder, name) for name, folder in named_folders(paths).items()]


@contextmanager
def examined_by_doctor(paths: Sequence[Path]) -> Iterator[None]:
    """Let an error of a file of a run or evaluation at or below `paths` say what examines all of
    it.

    Raises:
        InvalidInputError: the error, with the command at its end.
    """
    try:
        yield
    except InvalidInputError as error:
        folders = [*paths, *named_folders(paths, say_left_out=False).values()]
        named = [folder for folder in folders if str(error).startswith(f"{folder}{os.sep}")]
        named += [folder for folder in folders if folder == Path()]  # its files are named alone
        if not named:
            raise
        whole = max(named, key=lambda folder: len(folder.parts))
        what = "evaluation" if is_evaluation(whole) else "sweep" if is_sweep(whole) else "run"
        advice = f"`{shlex.join(['tspo', 'doctor', str(whole)])}` examines the {what}"
        raise InvalidInputError(f"{error}; {advice}") from error


def named_folders(paths: Sequence[Path], *, say_left_out: bool = True) -> dict[str, Path]:
    """The folders of `open_runs` by their names, in its order. Hidden ones below `paths`, and those
    that cannot be read, are left out, and a warning says so unless `say_left_out` is False.

    Raises:
        MissingResourceError: as `open_runs`.
    """
    unique: dict[Path, Path] = {}
    for path in paths:
        for folder in _folders_at(path, say_left_out):
            unique.setdefault(folder.resolve(), folder)  # which errors name as it was given
    folders = sorted(unique, key=lambda folder: not runs.is_run(folder))
    parents = [path.resolve().parent if _is_source(path) else path.resolve() for path in paths]
    shared = Path(os.path.commonpath(parents))
    return {folder.relative_to(shared).as_posix(): unique[folder] for folder in folders}


def _is_source(path: Path) -> bool:
    """True for a run directory or a folder of `tspo eval`."""
    return runs.is_run(path) or is_evaluation(path)


def _folders_at(path: Path, say_left_out: bool) -> list[Path]:
    """`path` itself, or all runs and then all evaluations below it."""
    if not path.exists():
        raise MissingResourceError(
            f"{path}: {why_missing(path, 'no such run directory')}; check the path"
        )
    if _is_source(path):
        return [path]
    if path.is_dir():
        require_listable(path)
    below = folders_with({runs.CONFIG_NAME, runs.EVAL_SUMMARY_NAME}, path, say_left_out)
    folders = [folder for folder in below if runs.is_run(folder)]
    folders += [folder for folder in below if is_evaluation(folder)]
    if not folders and is_unfinished_evaluation(path):
        raise MissingResourceError(f"{path}: {UNFINISHED}")
    if not folders:
        raise MissingResourceError(
            f"{path}: no run or evaluation below it (a run holds {runs.CONFIG_NAME}, an evaluation "
            f"{runs.EVAL_SUMMARY_NAME})"
        )
    return folders


def unfinished(views: Iterable[RunView]) -> list[str]:
    """One sentence for every run that has not finished."""
    return [
        f"{view.name}: {view.state} at step {view.status['step']} of "
        f"{view.setting('train.steps', '?')}; the report shows the steps so far"
        if "step" in view.status
        else f"{view.name}: {view.state}"
        for view in views
        if view.state != "finished"
    ]


def warned(views: Iterable[RunView]) -> list[str]:
    """What training warned of, one sentence each with the names of its runs."""
    return by_sentence(
        (view.name, sentence) for view in views for sentence in view.status.get("warnings") or ()
    )


def by_sentence(said: Iterable[tuple[str, str]]) -> list[str]:
    """Each sentence once, with the names of whom it was said of: `a: it stopped`,
    `a and 2 more: it stopped`.
    """
    names: dict[str, list[str]] = {}
    for name, sentence in said:
        names.setdefault(sentence, []).append(name)
    return [
        f"{first}{f' and {len(others)} more' if others else ''}: {sentence}"
        for sentence, (first, *others) in names.items()
    ]


def failed_searches(views: Iterable[RunView]) -> list[str]:
    """One sentence for every evaluation whose scores an outage made lower."""
    return [
        f"{view.name}: step {step}: a search failed for {scores['failed']} of "
        f"{counted(scores['n'], 'question')} of {scores['dataset']}, which "
        f"{'counts' if scores['failed'] == 1 else 'count'} as wrong"
        for view in views
        for step, scores in view.evaluations
        if scores.get("failed")
    ]


def judged(views: Iterable[RunView]) -> list[str]:
    """How well the judge that a run was trained with agrees with exact match, one sentence each."""
    return [
        f"{view.name}: trained with the verdicts of {view.setting('judge.model')}, which agree "
        f"with exact match on {_mean(rows, 'judge_agreement'):.1%} of the rollouts (only the judge "
        f"calls {_mean(rows, 'judge_only'):.1%} correct, only exact match "
        f"{_mean(rows, 'em_only'):.1%})"
        for view in views
        if (rows := [row for row in view.metrics if "judge_agreement" in row])
    ]


def _mean(rows: Sequence[dict[str, Any]], name: str) -> float:
    return sum(float(row.get(name) or 0.0) for row in rows) / len(rows)


def _read(form: TypeAdapter[Any], path: Path) -> dict[str, Any]:
    record: dict[str, Any] = checked(form, runs.read_json(path), str(path))
    return record


def _read_steps(path: Path) -> tuple[dict[str, Any], ...]:
    return tuple(checked_step(record, str(path)) for record in runs.read_jsonl(path))
