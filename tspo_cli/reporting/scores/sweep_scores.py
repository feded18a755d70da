"""Statistics of a sweep: means over seeds and worlds, and differences from a baseline arm, paired
cell by cell.

A group is an arm with one combination of the option grid; its cells differ in seed and in the
values of the axes (worlds, warm starts), and all of them count as repetitions. Compared are cells
of equal seed, axes and options, so that what the pair shares (questions, start, order of training)
cancels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tspo_cli import runs
from tspo_cli.config.sweeps.sweep_record import read_sweep_record
from tspo_cli.errors import InvalidInputError, MissingResourceError, UsageError
from tspo_cli.evaluation.statistics.over_seeds import (
    Mean,
    Paired,
    area_under_curve,
    mean_interval,
    paired_difference,
)
from tspo_cli.reporting.sources.run_view import RunView, open_run
from tspo_cli.training.launch.sweep_inputs import require_one_sweep


@dataclass(frozen=True, slots=True)
class SweepRun:
    """One cell that has been started. `curve` is (step, EM) of its evaluations, by step.

    `tokens` are sampled in training; `cpu_seconds` are None where not recorded.
    """

    view: RunView
    arm: str
    place: Mapping[str, str]
    seed: int
    dataset: str
    curve: tuple[tuple[int, float], ...]
    end: Mapping[str, Any]
    tokens: float
    cpu_seconds: float | None

    @property
    def finished(self) -> bool:
        """True for a run that has taken all its steps."""
        return self.view.state == "finished"

    def em_at(self, step: int) -> float | None:
        """EM of the evaluation at `step`, None without one."""
        return dict(self.curve).get(step)

    def auc_until(self, step: int) -> float | None:
        """Area under the curve up to `step`, divided by its length in steps: mean EM of that time,
        0 to 1.
        """
        return area_under_curve([point for point in self.curve if point[0] <= step])


@dataclass(frozen=True, slots=True)
class GroupSummary:
    """A group: EM at the end and area under the curve, each with its difference from the baseline
    (None for itself).

    `searches` and `no_answer_share` are means of the last evaluation, `tokens` and `cpu_seconds` of
    whole trainings.
    """

    arm: str
    options: Mapping[str, str]
    seeds: tuple[int, ...]
    step: int
    em: Mean
    auc: Mean | None
    delta_em: Paired | None
    delta_auc: Paired | None
    searches: float | None
    no_answer_share: float | None
    tokens: float
    cpu_seconds: float | None


@dataclass(frozen=True)
class SweepView:
    """The runs of a sweep and what to compare them with. `waiting` names the cells without a
    finished run, `unevaluated` those with a finished run without an evaluation.
    """

    path: Path
    baseline: str | None
    options: tuple[str, ...]
    runs: tuple[SweepRun, ...]
    waiting: tuple[str, ...]
    unevaluated: tuple[str, ...] = ()


def open_sweep(path: Path, baseline: str | None = None) -> SweepView:
    """All runs of the sweep in `path` that were evaluated at least once; `baseline` wins over the
    file's own.

    Raises:
        MissingResourceError: no run has an evaluation yet.
        UsageError: the baseline is no arm.
        InvalidInputError: the runs were evaluated on several data sets, which have no common mean;
            they are of several experiments; or a record is damaged.
    """
    record = read_sweep_record(path)
    arms = list(dict.fromkeys(cell["arm"] for cell in record["cells"]))
    chosen = baseline or record["baseline"]
    if chosen is not None and chosen not in arms:
        raise UsageError(f"--baseline {chosen}: the arms of this sweep are {', '.join(arms)}")
    names = [cell["name"] for cell in record["cells"]]
    views = {name: open_run(path / name, name) for name in names if runs.is_run(path / name)}
    require_one_sweep(path)
    cells = [(cell, views[cell["name"]]) for cell in record["cells"] if cell["name"] in views]
    found = [_open_cell(cell, view) for cell, view in cells]
    evaluated = tuple(run for run in found if run is not None)
    if not evaluated:
        raise MissingResourceError(f"{path}: no run of this sweep has an evaluation yet")
    done = {name for name, view in views.items() if view.state == "finished"}
    waiting = tuple(name for name in names if name not in done)
    unevaluated = tuple(sorted(done - {run.view.name for run in evaluated}, key=names.index))
    return SweepView(path, chosen, tuple(record["grid"]), evaluated, waiting, unevaluated)


def baseline_run(path: Path) -> str | None:
    """A run of the baseline arm by its name in the sweep's directory, None without a baseline or a
    run of it.

    Raises:
        InvalidInputError: the record of the sweep is damaged.
    """
    record = read_sweep_record(path)
    cells = [cell["name"] for cell in record["cells"] if cell["arm"] == record["baseline"]]
    return next((name for name in cells if runs.eval_steps(path / name)), None)


def left_out(sweep: SweepView, groups: Sequence[GroupSummary]) -> list[str]:
    """The finished runs that the mean of their group lacks, a sentence each."""
    return [
        f"{run.view.name}: has no evaluation at step {group.step}, and the mean of "
        f"{'/'.join((group.arm, *group.options.values()))} leaves it out"
        for group in groups
        for run in sweep.runs
        if run.finished
        and run.arm == group.arm
        and all(run.place[key] == value for key, value in group.options.items())
        and run.em_at(group.step) is None
    ]


def summaries(sweep: SweepView, step: int | None = None) -> list[GroupSummary]:
    """One entry per group of finished runs, in the order of the sweep file: EM at `step`, area up
    to it.

    None means the last evaluation.

    Raises:
        MissingResourceError: no finished run was evaluated at `step`.
    """
    groups: dict[tuple[str, tuple[tuple[str, str], ...]], list[SweepRun]] = {}
    for run in sweep.runs:
        if run.finished:
            options = tuple((key, run.place[key]) for key in sweep.options)
            groups.setdefault((run.arm, options), []).append(run)
    rows = []
    for (arm, options), members in groups.items():
        at = step if step is not None else max(run.curve[-1][0] for run in members)
        kept = [run for run in members if run.em_at(at) is not None]
        others = (
            groups.get((sweep.baseline, options), []) if sweep.baseline not in (None, arm) else []
        )
        if kept:
            rows.append(_summary(arm, dict(options), kept, at, others))
    if not rows:
        wanted = "" if step is None else f" evaluated at step {step}"
        raise MissingResourceError(f"{sweep.path}: no finished run{wanted}")
    return rows


def _open_cell(cell: dict[str, Any], view: RunView) -> SweepRun | None:
    evaluations = [(step, scores) for step, scores in view.evaluations if scores["em"] is not None]
    if not evaluations:
        return None
    datasets = sorted({str(scores["dataset"]) for _, scores in evaluations})
    if len(datasets) > 1:
        raise InvalidInputError(
            f"{view.path}: evaluated on {', '.join(datasets)}; a sweep is reported on one data set"
        )
    curve = tuple((step, float(scores["em"])) for step, scores in evaluations)
    sampled = view.setting("rollout.questions_per_step", 0) * view.setting("rollout.group_size", 0)
    whole = [record for record in view.metrics if "tree/rollouts" not in record]
    trees = [record for record in view.metrics if "tree/rollouts" in record]
    cpu = [record.get("cpu") for record in view.timings]
    return SweepRun(
        view=view,
        arm=cell["arm"],
        place=cell["place"],
        seed=cell["seed"],
        dataset=datasets[0],
        curve=curve,
        end=evaluations[-1][1],
        tokens=sum(float(record.get("response_tokens") or 0.0) for record in whole) * sampled
        + sum(float(record.get("sampled_tokens") or 0.0) for record in trees),
        cpu_seconds=None
        if not cpu or None in cpu
        else sum(float(seconds) for seconds in cpu if seconds is not None),
    )


def _summary(
    arm: str,
    options: dict[str, str],
    members: Sequence[SweepRun],
    step: int,
    others: Sequence[SweepRun],
) -> GroupSummary:
    partners = {_block(run): run for run in others}
    pairs = [(run, partners[_block(run)]) for run in members if _block(run) in partners]
    ends = [(run.em_at(step), other.em_at(step)) for run, other in pairs]
    delta_em = [(mine, theirs) for mine, theirs in ends if mine is not None and theirs is not None]
    both = [(run.auc_until(step), other.auc_until(step)) for run, other in pairs]
    delta_auc = [(mine, theirs) for mine, theirs in both if mine is not None and theirs is not None]
    areas = [area for run in members if (area := run.auc_until(step)) is not None]
    cpu = [run.cpu_seconds for run in members if run.cpu_seconds is not None]
    return GroupSummary(
        arm=arm,
        options=options,
        seeds=tuple(run.seed for run in members),
        step=step,
        em=mean_interval([em for run in members if (em := run.em_at(step)) is not None]),
        auc=mean_interval(areas) if areas else None,
        delta_em=paired_difference(delta_em) if delta_em else None,
        delta_auc=paired_difference(delta_auc) if delta_auc else None,
        searches=_mean([run.end.get("searches") for run in members]),
        no_answer_share=_mean([run.end.get("no_answer_share") for run in members]),
        tokens=sum(run.tokens for run in members) / len(members),
        cpu_seconds=sum(cpu) / len(cpu) if len(cpu) == len(members) else None,
    )


def _block(run: SweepRun) -> tuple[Any, ...]:
    return (run.seed, tuple(sorted(run.place.items())))


def _mean(values: Sequence[Any]) -> float | None:
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known else None
