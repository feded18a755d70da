"""The report of runs and evaluations: tables, figure, page and JSON record."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tspo_cli.config.tables import flatten
from tspo_cli.console import counted
from tspo_cli.errors import UsageError
from tspo_cli.reporting.rendering.render import render
from tspo_cli.reporting.rendering.table import Format, Table
from tspo_cli.reporting.scores.baseline import differences
from tspo_cli.reporting.scores.end_rows import Row, result_rows
from tspo_cli.reporting.scores.scored_items import (
    ArmScores,
    BaselineComparison,
    compare_arms,
    score_arms,
)
from tspo_cli.reporting.scores.sweep_scores import open_sweep
from tspo_cli.reporting.sources.arms import Arm, find_arm, group_arms
from tspo_cli.reporting.sources.lost_steps import lost_steps
from tspo_cli.reporting.sources.published import Published
from tspo_cli.reporting.sources.run_view import RunView, by_sentence, judged, unfinished, warned
from tspo_cli.reporting.tables.ablation_table import ablation_table
from tspo_cli.reporting.tables.classes_table import classes_table
from tspo_cli.reporting.tables.commands_table import commands_table
from tspo_cli.reporting.tables.cost_table import cost_table
from tspo_cli.reporting.tables.curves_table import curves_table
from tspo_cli.reporting.tables.main_table import main_table
from tspo_cli.reporting.tables.questions_table import questions_table
from tspo_cli.reporting.tables.rows_table import records, results_table
from tspo_cli.reporting.tables.tests_table import comparisons_table
from tspo_cli.runs import MODEL_NAME
from tspo_cli.text.strict_json import json_text
from tspo_cli.training.launch.same_experiment import INPUT_NAMES
from tspo_cli.training.launch.sweep_inputs import other_inputs, sweep_problems

TABLES = ("rows", "main", "tests", "ablation", "curves", "classes", "questions", "cost", "commands")
"""The names of --table, in the order of the page."""


@dataclass(frozen=True)
class RunReport:
    """A report of runs and evaluations. It reads the scores of items once, and only if a table
    needs them.

    `baselines` are names of runs, algorithms, methods or arms; runs that differ only in settings of
    `ignore` are one arm. `shown` names the tables of `text` and `record`; "all" shows those that
    the runs allow. `sweep` is the directory of the sweep that the runs belong to, if any: its
    figure has a line per arm of the sweep.
    """

    views: Sequence[RunView]
    baselines: Sequence[str] = ()
    metric: str = "em"
    published: Sequence[Published] = ()
    intervals: bool = True
    all_steps: bool = False
    ignore: Sequence[str] = ()
    shown: Sequence[str] = ("rows",)
    sweep: Path | None = None

    @cached_property
    def arms(self) -> list[Arm]:
        """Runs and evaluations, grouped by what differs beside the seed."""
        return group_arms(self.views, ignore=self.ignore)

    @cached_property
    def rows(self) -> list[Row]:
        """One row per run, evaluated step and data set."""
        return result_rows(self.views, all_steps=self.all_steps)

    @cached_property
    def scored(self) -> list[ArmScores]:
        """Arms with the scores of their items."""
        return score_arms(self.arms, self.metric)

    @cached_property
    def baseline_scores(self) -> list[ArmScores]:
        """The arms that `baselines` name.

        Raises:
            MissingResourceError: a name means no arm, or several.
        """
        by_label = {scores.arm.label: scores for scores in self.scored}
        arms = [scores.arm for scores in self.scored]
        labels = dict.fromkeys(find_arm(arms, name).label for name in self.baselines)
        return [by_label[label] for label in labels]

    @cached_property
    def comparisons(self) -> list[BaselineComparison]:
        """The comparisons of the arms with every baseline."""
        return compare_arms(self.scored, self.baseline_scores, self.metric)

    def table(self, name: str) -> Table:
        """One of `TABLES`.

        Raises:
            UsageError: the table cannot be made of these runs; the message says what it needs.
        """
        make: dict[str, Callable[[], Table]] = {
            "rows": self._rows_table,
            "main": lambda: main_table(
                self.scored,
                self.comparisons,
                self.published,
                metric=self.metric,
                intervals=self.intervals,
            ),
            "tests": lambda: comparisons_table(self.scored, self.comparisons, self.metric),
            "ablation": self._ablation_table,
            "curves": lambda: curves_table([arm for arm in self.arms if not arm.is_evaluation]),
            "classes": lambda: classes_table(self.arms),
            "questions": lambda: questions_table(self.views),
            "cost": lambda: cost_table(self.arms),
            "commands": lambda: commands_table(self.arms),
        }
        return make[name]()

    def possible(self) -> list[str]:
        """The tables that these runs have something for, in order."""
        trained = any(not arm.is_evaluation for arm in self.arms)
        has = {
            "main": bool(self.scored or self.published),
            "tests": any(comparison.gains for comparison in self.comparisons),
            "ablation": self._can_ablate(),
            "curves": trained,
            "classes": trained,
            "questions": any(view.questions for view in self.views),
        }
        return [name for name in TABLES if has.get(name, True)]

    def messages(self) -> list[str]:
        """What the reader should know beside the tables: unfinished runs, and runs that neither
        training nor a given evaluation has scored."""
        evaluated = {row.run for row in self.rows}
        models = {Path(view.model).resolve() for view in self.views if view.model}
        evaluated |= {
            view.name
            for view in self.views
            if models & {view.path.resolve(), (view.path / MODEL_NAME).resolve()}
        }
        missing = [view.name for view in self.views if view.name not in evaluated]
        return [
            *(sweep_problems(self.sweep) if self.sweep is not None else self._other_inputs()),
            *unfinished(self.views),
            *lost_steps(self.views),
            *warned(self.views),
            *judged(self.views),
            *by_sentence((name, "no evaluation yet") for name in missing),
            *self._failed_searches(),
        ]

    def _other_inputs(self) -> list[str]:
        trained = {view.path: view for view in self.views if not view.is_evaluation}
        different = other_inputs({path: flatten(view.config) for path, view in trained.items()})
        return [
            f"{trained[found.run].name}: began with other {INPUT_NAMES[found.kind]} than "
            f"{trained[found.other].name}, though both name the same: {found.digest}, there "
            f"{found.before}; their scores have no common mean, and differences between them are "
            "no effect of a method"
            for found in different
        ]

    def _failed_searches(self) -> list[str]:
        baselines = set(self.baselines)
        return [
            f"{row.run}{' (baseline)' if {row.run, row.algorithm} & baselines else ''}: a search, "
            f"or a request of the model, failed for {row.failed} of "
            f"{counted(row.n, 'question')} of "
            f"{row.dataset}, which count as wrong"
            for row in self.rows
            if row.failed
        ]

    def text(self, form: Format, *, width: int | None = None, color: bool = False) -> str:
        """The shown tables, or the JSON record."""
        if form == "json":
            return json_text(self.record(), indent=2)
        return render([self.table(name) for name in self._names()], form, width=width, color=color)

    def record(self) -> dict[str, Any]:
        """`rows` are those of training runs; of evaluations where there is no training run.
        `evaluations` has the rows of all evaluations. Every shown table follows under its name.
        """
        rows = self.table("rows").records
        evaluations = [row for row in rows if row["evaluation"]]
        return {
            "rows": [row for row in rows if not row["evaluation"]] or evaluations,
            "evaluations": evaluations,
            **{name: self.table(name).records for name in self._names() if name != "rows"},
        }

    def draw(self, path: Path) -> None:
        """Write the learning curves to `path` (.svg, .png or .pdf)."""
        from tspo_cli.reporting.figure import draw_arms, draw_sweep

        if self.sweep is not None:
            draw_sweep(open_sweep(self.sweep), path)
        else:
            draw_arms(self.arms, path)

    def _names(self) -> list[str]:
        return self.possible() if "all" in self.shown else list(self.shown)

    def _trained_base(self) -> ArmScores | None:
        trained = (scores for scores in self.baseline_scores if not scores.arm.is_evaluation)
        return next(trained, None)

    def _can_ablate(self) -> bool:
        base = self._trained_base()
        if base is None:
            return False
        trained = [scores.arm for scores in self.scored if not scores.arm.is_evaluation]
        kinds = [arm.views[0].setting("kind") for arm in trained]
        return kinds.count(base.arm.views[0].setting("kind")) > 1

    def _rows_table(self) -> Table:
        compared = differences(self.rows, self.views, self.baselines[0]) if self.baselines else None
        return results_table(records(self.rows, compared))

    def _ablation_table(self) -> Table:
        base = self._trained_base()
        if base is None:
            raise UsageError(
                "--table ablation needs --baseline with the name of a training run or algorithm"
            )
        return ablation_table(self.scored, base, self.metric)
