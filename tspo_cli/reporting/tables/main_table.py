"""The table of a paper: arms by data sets with averages, intervals, gains, and who differs from
which baseline.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from tspo_cli.errors import UsageError
from tspo_cli.evaluation.statistics import Estimate
from tspo_cli.reporting.scores.scored_items import Against, ArmScores, averaged, set_order
from tspo_cli.reporting.sources.published import CERTAINTY, SETS, Published
from tspo_cli.reporting.tables.main_records import arm_record, flat_record, published_record
from tspo_cli.reporting.tables.metric import Metric
from tspo_cli.reporting.tables.table import Cell, Column, Table, number, p_text

SIGNIFICANT = 0.05
AVERAGE, BY_QUESTION = "avg", "avg by question"


def main_table(
    scored: Sequence[ArmScores],
    against: Sequence[Against] = (),
    published: Sequence[Published] = (),
    *,
    metric: str = "em",
    intervals: bool = True,
) -> Table:
    """One row per arm and published row, one column per data set; the best measured value bold, the
    second underlined.

    Raises:
        UsageError: no arm was evaluated and nothing published is asked for, or that has no score on
        these data sets.
    """
    if not scored and not published:
        raise UsageError(
            "no evaluation with its items was found; there is nothing to put into this table"
        )
    unit = Metric(metric)
    measured = dict.fromkeys(name for one in scored for name in one.estimates)
    datasets = sorted(measured or dict.fromkeys(SETS), key=set_order)
    published = _with_scores(published, datasets)
    values = _columns(scored, datasets)
    ranks = {name: _ranks(column, unit) for name, column in values.items()}
    gains = {f"gain over {one.baseline}": one for one in against}
    # The data sets that papers average, their averages and gains; then what else was measured.
    others = [name for name in datasets if name not in averaged(datasets)]
    heads = [*(name for name in values if name not in others), *gains, *others]
    seeds = any(one.seeds > 1 for one in scored)
    rows = []
    for place, one in enumerate(scored):
        drawn = {name: _gain(one, other) for name, other in gains.items()}
        for name, column in values.items():
            letters, hint = _letters(one, name, against, unit)
            drawn[name] = _cell(column[place], ranks[name][place], unit, intervals, letters, hint)
        rows.append(
            (Cell(one.arm.label), *[Cell(str(one.seeds))] * seeds, *(drawn[name] for name in heads))
        )
    for quoted in published:
        scores = _quoted(quoted, datasets, unit)
        label = Cell(
            quoted.label,
            letters=f"†{quoted.certainty}",
            hint=f"{quoted.source}. {quoted.note}".strip(),
        )
        rows.append((label, *[Cell("")] * seeds, *(Cell(scores.get(name, "")) for name in heads)))
    records = [arm_record(one, against, metric) for one in scored] + [
        published_record(one) for one in published
    ]
    return Table(
        name="main",
        title=f"{unit.heading if not unit.is_count else unit.name} by method and data set",
        columns=(Column("method", False), *[Column("seeds")] * seeds, *map(Column, heads)),
        rows=tuple(rows),
        records=records,
        notes=tuple(
            _notes(scored, against, published, unit, intervals, any(map(any, ranks.values())))
        ),
        quoted=frozenset(range(len(scored), len(rows))),
        fields=("method", "metric", "published"),
        flat=[flat_record(record) for record in records],
        commands=tuple(
            dict.fromkeys(view.command for one in scored for view in one.arm.views if view.command)
        ),
    )


def _with_scores(published: Sequence[Published], datasets: Sequence[str]) -> list[Published]:
    chosen = [one for one in published if any(name in one.scores for name in datasets)]
    if published and not chosen:
        raise UsageError(
            f"--published: none of these rows has a score on {', '.join(datasets)}; drop the option"
        )
    return chosen


def _columns(
    scored: Sequence[ArmScores], datasets: Sequence[str]
) -> dict[str, list[Estimate | None]]:
    """The estimates of all arms by column: the data sets, then their averages where there are
    several.
    """
    values: dict[str, list[Estimate | None]] = {
        name: [one.estimates.get(name) for one in scored] for name in datasets
    }
    together = averaged(datasets)
    if len(together) > 1:
        whole = [all(name in one.estimates for name in together) for one in scored]
        values[AVERAGE] = [
            one.macro if full else None for one, full in zip(scored, whole, strict=True)
        ]
        if any(_differs(one) for one in scored):
            values[BY_QUESTION] = [
                one.weighted if full else None for one, full in zip(scored, whole, strict=True)
            ]
    return values


def _differs(one: ArmScores) -> bool:
    return (
        one.macro is not None
        and one.weighted is not None
        and abs(one.macro.mean - one.weighted.mean) > 5e-4
    )


def _ranks(column: Sequence[Estimate | None], unit: Metric) -> list[int]:
    """1 for the best shown value, 2 for the next, 0 for the others; nothing is best among fewer
    than two.
    """
    shown = [None if one is None else unit.text(one.mean) for one in column]
    levels = sorted({float(value) for value in shown if value is not None}, reverse=True)
    if unit.is_count or sum(value is not None for value in shown) < 2 or len(levels) < 2:
        return [0] * len(shown)
    return [
        levels.index(float(value)) + 1 if value and float(value) in levels[:2] else 0
        for value in shown
    ]


def _letters(
    one: ArmScores, dataset: str, against: Sequence[Against], unit: Metric
) -> tuple[str, str]:
    letters, hints = "", []
    for other in against:
        found = other.found.get(one.arm.label, {}).get(dataset)
        if found is None:
            continue
        difference, p = found.difference.mean, found.p_permutation_holm
        if p < SIGNIFICANT:
            letters += other.letter if difference > 0 else f"-{other.letter}"
        hints.append(
            f"{unit.difference(difference)} against {other.baseline}, p {p_text(p)} (Holm)"
        )
    return letters, "; ".join(hints)


def _cell(
    value: Estimate | None, rank: int, unit: Metric, intervals: bool, letters: str, hint: str
) -> Cell:
    if value is None:
        return Cell("")
    interval = unit.interval(value.low, value.high)
    about = f"95 % interval {interval}, {value.questions} questions"
    hint = "; ".join(filter(None, [about, hint]))
    return Cell(
        unit.text(value.mean), rank == 1, rank == 2, letters, hint, interval if intervals else ""
    )


def _gain(one: ArmScores, against: Against) -> Cell:
    """The relative gain in the average over the data sets that both have."""
    found = against.gains.get(one.arm.label)
    return Cell(
        "" if found is None or found.relative is None else number(found.relative, "{:+.1f} %", 100)
    )


def _quoted(one: Published, datasets: Sequence[str], unit: Metric) -> dict[str, str]:
    """What a printed row says in the columns of data sets, and its average where it is of these
    data sets.
    """
    complete = set(SETS) <= set(datasets) and set(SETS) <= set(one.scores)
    scores: dict[str, float | None] = {**one.scores, AVERAGE: one.average if complete else None}
    return {name: unit.text(value) for name, value in scores.items()}


def _notes(
    scored: Sequence[ArmScores],
    against: Sequence[Against],
    published: Sequence[Published],
    unit: Metric,
    intervals: bool,
    ranked: bool,
) -> list[str]:
    notes = ["Best measured value bold, second underlined."] if ranked else []
    if intervals and scored:
        notes.append(
            "[low, high]: 95 % bootstrap interval over questions, and over seeds where there are "
            "several"
            " (Wilson where all answers are alike)."
        )
    notes += _questions(scored)
    together = averaged(
        sorted(dict.fromkeys(name for one in scored for name in one.estimates), key=set_order)
    )
    if len(together) > 1:
        notes.append(
            f"{AVERAGE}: mean of {', '.join(together)}, for methods that have all {len(together)}."
        )
    higher, lower = ("higher than", "lower") if unit.is_count else ("better than", "worse")
    for one in against:
        notes.append(
            f"{one.letter}: {higher} {one.baseline} (-{one.letter}: {lower}) in a paired "
            "permutation test over the"
            f" questions, p < {SIGNIFICANT:g} after Holm's correction over data sets; seeds are "
            "averaged first."
        )
        notes += _power(one, unit)
    if against:
        notes.append(
            "Gain: (average - baseline's) / baseline's, over the averaged data sets that both have."
        )
    if scored and all(one.seeds == 1 for one in scored):
        notes.append(
            "One seed per method: intervals and tests speak of the questions, not of the luck of "
            "training."
        )
    if published:
        marks = ", ".join(
            f"{mark} {CERTAINTY[mark]}"
            for mark in dict.fromkeys(one.certainty for one in published)
        )
        notes.append(
            f"† Published {unit.name}, not measured here, neither ranked nor tested; {marks}."
        )
        notes += _remarks([(one.protocol, one.label) for one in published if not one.comparable])
        notes += _remarks([(one.note, one.label) for one in published if one.note])
        notes.append("Sources: " + "; ".join(dict.fromkeys(one.source for one in published)) + ".")
    return notes


def _questions(scored: Sequence[ArmScores]) -> list[str]:
    """How many questions stand behind each column, and what would make a column unfair."""
    datasets = sorted(
        dict.fromkeys(name for one in scored for name in one.estimates), key=set_order
    )
    sizes = []
    warnings = []
    for name in datasets:
        arms = [one for one in scored if name in one.estimates]
        asked = {one.estimates[name].questions for one in arms}
        facts = [fact for one in arms for fact in one.facts[name]]
        whole = max((int(fact.get("benchmark_size") or 0) for fact in facts), default=0)
        of = f" of {whole:,}" if whole > max(asked) else ""
        sizes.append(
            f"{name} {' to '.join(f'{n:,}' for n in sorted({min(asked), max(asked)}))}{of}"
        )
        warnings += [
            f"{name}: {what}."
            for what, differ in (
                (("the methods did not answer the same "
                 "questions"), len(asked) > 1 or _several(facts, "data")),
                ("the methods searched different corpora", _several(facts, "corpus")),
                ("the methods searched one corpus with different indexes", _several(facts, "index")
                 and not _several(facts, "corpus")),
                ("the methods were given different numbers of passages per search",
                 len({fact["k"] for fact in facts if fact.get("searches") and "k" in fact}) > 1),
            )
            if differ
        ]  # fmt: skip
    return [f"Questions: {', '.join(sizes)}.", *warnings] if sizes else []


def _several(facts: Iterable[dict[str, Any]], name: str) -> bool:
    return len({digest for fact in facts if (digest := (fact.get("digests") or {}).get(name))}) > 1


def _remarks(remarks: Sequence[tuple[str, str]]) -> list[str]:
    """One note for each remark, with the rows that it is about."""
    return [
        f"† {remark}: {'; '.join(label for other, label in remarks if other == remark)}."
        for remark in dict.fromkeys(remark for remark, _ in remarks)
    ]


def _power(against: Against, unit: Metric) -> list[str]:
    """The smallest true difference that the questions at hand would show, for the worst arm of each
    data set.
    """
    worst: dict[str, float] = {}
    for found in against.found.values():
        for name, one in found.items():
            worst[name] = max(worst.get(name, 0.0), one.detectable or 0.0)
    shown = ", ".join(
        f"{name} {unit.text(worst[name])}" for name in sorted(worst, key=set_order) if worst[name]
    )
    points = "" if unit.is_count else ", in points"
    return (
        [f"Smallest difference from {against.baseline} shown with 80 % power{points}: {shown}."]
        if shown
        else []
    )
