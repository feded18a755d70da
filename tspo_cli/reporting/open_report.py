"""From views to the tables that were asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from tspo_cli.errors import UsageError
from tspo_cli.reporting.page.curves import curves_table
from tspo_cli.reporting.scores.baseline import differences
from tspo_cli.reporting.scores.end_rows import Row, result_rows
from tspo_cli.reporting.scores.scored_items import Against, ArmScores, compare_arms, score_arms
from tspo_cli.reporting.sources.arms import Arm, find_arm, group_arms
from tspo_cli.reporting.sources.published import Published
from tspo_cli.reporting.sources.run_view import RunView
from tspo_cli.reporting.tables.ablation_table import ablation_table
from tspo_cli.reporting.tables.classes_table import classes_table
from tspo_cli.reporting.tables.commands_table import commands_table
from tspo_cli.reporting.tables.cost_table import cost_table
from tspo_cli.reporting.tables.main_table import main_table
from tspo_cli.reporting.tables.rows_table import records, results_table
from tspo_cli.reporting.tables.table import Table
from tspo_cli.reporting.tables.tests_table import comparisons_table

NAMES = ("rows", "main", "tests", "ablation", "curves", "classes", "cost", "commands")


@dataclass(frozen=True)
class Report:
    """What a report is made of. Scores of items are read once, and only where a table needs them.

    `baselines` are names of runs, algorithms, methods or arms; `ignore` are settings that make no
    other arm.
    """

    views: Sequence[RunView]
    baselines: Sequence[str] = ()
    metric: str = "em"
    published: Sequence[Published] = ()
    intervals: bool = True
    all_steps: bool = False
    ignore: Sequence[str] = ()

    @cached_property
    def arms(self) -> list[Arm]:
        """Runs and evaluations by what differs beside the seed."""
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
        by_label = {one.arm.label: one for one in self.scored}
        arms = [one.arm for one in self.scored]
        return [
            by_label[label]
            for label in dict.fromkeys(find_arm(arms, name).label for name in self.baselines)
        ]

    @cached_property
    def against(self) -> list[Against]:
        """The comparisons with every baseline."""
        return compare_arms(self.scored, self.baseline_scores, self.metric)

    def table(self, name: str) -> Table:
        """One of `NAMES`.

        Raises:
            UsageError: the table cannot be made of these runs; the message says what it needs.
        """
        make: dict[str, Callable[[], Table]] = {
            "rows": self._rows_table,
            "main": lambda: main_table(
                self.scored,
                self.against,
                self.published,
                metric=self.metric,
                intervals=self.intervals,
            ),
            "tests": lambda: comparisons_table(self.scored, self.against, self.metric),
            "ablation": self._ablation_table,
            "curves": lambda: curves_table([arm for arm in self.arms if not arm.is_evaluation]),
            "classes": lambda: classes_table(self.arms),
            "cost": lambda: cost_table(self.arms),
            "commands": lambda: commands_table(self.arms),
        }
        return make[name]()

    def possible(self) -> list[str]:
        """The tables that these runs have something for, in order."""
        trained = [one for one in self.scored if not one.arm.is_evaluation]
        kinds = [one.arm.views[0].setting("kind") for one in trained]
        base = next((one for one in self.baseline_scores if not one.arm.is_evaluation), None)
        ablates = base is not None and kinds.count(base.arm.views[0].setting("kind")) > 1
        tested = any(other.gains for other in self.against)
        has = {"main": bool(self.scored or self.published), "tests": tested, "ablation": ablates}
        has |= {
            name: any(not arm.is_evaluation for arm in self.arms) for name in ("curves", "classes")
        }
        return [name for name in NAMES if has.get(name, True)]

    def _rows_table(self) -> Table:
        against = differences(self.rows, self.views, self.baselines[0]) if self.baselines else None
        return results_table(records(self.rows, against))

    def _ablation_table(self) -> Table:
        base = next((one for one in self.baseline_scores if not one.arm.is_evaluation), None)
        if base is None:
            raise UsageError(
                "--table ablation needs --baseline with the name of a training run or algorithm"
            )
        return ablation_table(self.scored, base, self.metric)
