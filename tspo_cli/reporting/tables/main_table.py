"""The table of a paper: one row per arm, one column per data set, with averages, intervals, gains
and marks of significance.
"""

from __future__ import annotations

from collections.abc import Sequence

from tspo_cli.console import counted
from tspo_cli.errors import UsageError
from tspo_cli.evaluation.statistics.estimates import Estimate
from tspo_cli.reporting.rendering.metric import Metric
from tspo_cli.reporting.rendering.table import Cell, Column, Table, number, p_text
from tspo_cli.reporting.scores.scored_items import (
    ArmScores,
    BaselineComparison,
    averaged,
    set_order,
)
from tspo_cli.reporting.sources.published import SETS, Published
from tspo_cli.reporting.tables.main_notes import AVERAGE, SIGNIFICANT, MainTableInput, main_notes
from tspo_cli.reporting.tables.main_records import arm_record, flat_record, published_record

BY_QUESTION = "avg by question"


def main_table(
    scored: Sequence[ArmScores],
    comparisons: Sequence[BaselineComparison] = (),
    published: Sequence[Published] = (),
    *,
    metric: str = "em",
    intervals: bool = True,
) -> Table:
    """One row per arm and published row, one column per data set. The best measured value is bold,
    the second best underlined.

    Raises:
        UsageError: no arm was evaluated and no published row is asked for, or the published rows
            have no score on these data sets.
    """
    if not scored and not published:
        raise UsageError(
            "no evaluation with its items was found; there is nothing to put into this table"
        )
    unit = Metric(metric)
    measured = dict.fromkeys(name for scores in scored for name in scores.estimates)
    datasets = sorted(measured or dict.fromkeys(SETS), key=set_order)
    published = _with_scores(published, datasets)
    estimates = _columns(scored, datasets)
    ranks = {name: _ranks(column, unit) for name, column in estimates.items()}
    gains = {f"gain over {comparison.baseline}": comparison for comparison in comparisons}
    # First the averaged data sets, their averages and gains; then the other data sets.
    extra = [name for name in datasets if name not in averaged(datasets)]
    heads = [*(name for name in estimates if name not in extra), *gains, *extra]
    has_seeds = any(scores.seeds > 1 for scores in scored)

    def row(label: Cell, seeds: str, cells: dict[str, Cell]) -> tuple[Cell, ...]:
        seeds_cell = [Cell(seeds)] if has_seeds else []
        return (label, *seeds_cell, *(cells.get(name, Cell("")) for name in heads))

    rows = []
    for index, scores in enumerate(scored):
        cells = {name: _gain_cell(scores, comparison) for name, comparison in gains.items()}
        for name, column in estimates.items():
            letters, hint = _letters(scores, name, comparisons, unit)
            rank = ranks[name][index]
            cells[name] = _score_cell(column[index], rank, unit, intervals, letters, hint)
        rows.append(row(Cell(scores.arm.label), str(scores.seeds), cells))
    for quoted in published:
        hint = f"{quoted.source}. {quoted.note}".strip()
        label = Cell(quoted.label, letters=f"†{quoted.certainty}", hint=hint)
        texts = _published_texts(quoted, datasets, unit)
        rows.append(row(label, "", {name: Cell(text) for name, text in texts.items()}))
    records = [arm_record(scores, comparisons, metric) for scores in scored]
    records += [published_record(quoted) for quoted in published]
    is_ranked = any(any(column) for column in ranks.values())
    commands = (view.command for scores in scored for view in scores.arm.views)
    return Table(
        name="main",
        title=f"{unit.name if unit.is_count else unit.heading} by method and data set",
        columns=(
            Column("method", False),
            *([Column("seeds")] if has_seeds else []),
            *map(Column, heads),
        ),
        rows=tuple(rows),
        records=records,
        notes=tuple(
            main_notes(MainTableInput(scored, comparisons, published, unit, intervals, is_ranked))
        ),
        quoted=frozenset(range(len(scored), len(rows))),
        fields=("method", "metric", "published"),
        flat=[flat_record(record) for record in records],
        commands=tuple(dict.fromkeys(command for command in commands if command)),
    )


def _with_scores(published: Sequence[Published], datasets: Sequence[str]) -> list[Published]:
    chosen = [row for row in published if any(name in row.scores for name in datasets)]
    if published and not chosen:
        raise UsageError(
            f"--published: none of these rows has a score on {', '.join(datasets)}; drop the option"
        )
    return chosen


def _columns(
    scored: Sequence[ArmScores], datasets: Sequence[str]
) -> dict[str, list[Estimate | None]]:
    """The estimates of all arms by column: the data sets, then their averages where there are
    several. An arm has an average if it has all averaged data sets.
    """
    columns: dict[str, list[Estimate | None]] = {
        name: [scores.estimates.get(name) for scores in scored] for name in datasets
    }
    names = averaged(datasets)
    if len(names) > 1:
        complete = [
            scores if all(name in scores.estimates for name in names) else None for scores in scored
        ]
        columns[AVERAGE] = [scores.macro if scores else None for scores in complete]
        if any(_averages_differ(scores) for scores in scored):
            columns[BY_QUESTION] = [scores.weighted if scores else None for scores in complete]
    return columns


def _averages_differ(scores: ArmScores) -> bool:
    if scores.macro is None or scores.weighted is None:
        return False
    return abs(scores.macro.mean - scores.weighted.mean) > 5e-4


def _ranks(column: Sequence[Estimate | None], unit: Metric) -> list[int]:
    """1 for the best value as printed, 2 for the second best, 0 for the others. A column with fewer
    than two values, or with equal values only, has no ranks.
    """
    shown = [None if estimate is None else unit.text(estimate.mean) for estimate in column]
    levels = sorted({float(text) for text in shown if text is not None}, reverse=True)
    if unit.is_count or sum(text is not None for text in shown) < 2 or len(levels) < 2:
        return [0] * len(shown)
    return [
        levels.index(float(text)) + 1 if text and float(text) in levels[:2] else 0 for text in shown
    ]


def _letters(
    scores: ArmScores, dataset: str, comparisons: Sequence[BaselineComparison], unit: Metric
) -> tuple[str, str]:
    """The letters of the baselines that the score differs from, and the differences as a hint."""
    letters, hints = "", []
    for comparison in comparisons:
        result = comparison.by_dataset.get(scores.arm.label, {}).get(dataset)
        if result is None:
            continue
        difference, p = result.difference.mean, result.p_permutation_holm
        if p < SIGNIFICANT:
            letters += comparison.letter if difference > 0 else f"-{comparison.letter}"
        hints.append(
            f"{unit.difference(difference)} against {comparison.baseline}, p {p_text(p)} (Holm)"
        )
    return letters, "; ".join(hints)


def _score_cell(
    estimate: Estimate | None, rank: int, unit: Metric, intervals: bool, letters: str, hint: str
) -> Cell:
    if estimate is None:
        return Cell("")
    interval = unit.interval(estimate.low, estimate.high)
    about = f"95 % interval {interval}, {counted(estimate.questions, 'question')}"
    return Cell(
        unit.text(estimate.mean),
        best=rank == 1,
        second=rank == 2,
        letters=letters,
        hint=f"{about}; {hint}" if hint else about,
        below=interval if intervals else "",
    )


def _gain_cell(scores: ArmScores, comparison: BaselineComparison) -> Cell:
    """The relative gain in the average over the data sets that both have."""
    gain = comparison.gains.get(scores.arm.label)
    if gain is None or gain.relative is None:
        return Cell("")
    return Cell(number(gain.relative, "{:+.1f} %", 100))


def _published_texts(row: Published, datasets: Sequence[str], unit: Metric) -> dict[str, str]:
    """The scores of a published row by column, and its average if it covers these data sets."""
    is_complete = set(SETS) <= set(datasets) and set(SETS) <= set(row.scores)
    scores: dict[str, float | None] = {**row.scores, AVERAGE: row.average if is_complete else None}
    return {name: unit.text(score) for name, score in scores.items()}
