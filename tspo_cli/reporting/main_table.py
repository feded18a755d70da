"""The table of a paper: arms by data sets with averages, intervals, and who differs from which baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tspo_cli.errors import UsageError
from tspo_cli.evaluation.statistics import Comparison, Estimate, average, compare_sets, estimate
from tspo_cli.reporting.arms import Arm, Items, end_items, score_table
from tspo_cli.reporting.published import CERTAINTY, SETS, Published
from tspo_cli.reporting.tables import Cell, Column, Table, percent

SIGNIFICANT = 0.05
METRIC_NAMES = {"em": "EM", "f1": "F1", "sub_em": "sub-EM"}


@dataclass(frozen=True, slots=True)
class ArmScores:
    """An arm's scores of one metric at its last evaluation.

    `items` are the evaluated items by data set, one mapping per seed; `macro` gives every data set the same weight,
    `weighted` every question. Both are None with a single data set, or where data sets have different seeds.
    """

    arm: Arm
    items: dict[str, list[Items]]
    estimates: dict[str, Estimate]
    macro: Estimate | None
    weighted: Estimate | None


@dataclass(frozen=True, slots=True)
class Against:
    """Comparisons with one baseline: by arm label and data set. `letter` stands for the baseline in the table."""

    letter: str
    baseline: str
    found: dict[str, dict[str, Comparison]] = field(default_factory=dict)


def score_arms(arms: Sequence[Arm], metric: str = "em") -> list[ArmScores]:
    """The scores of all arms that were evaluated with their items kept."""
    scored = [_score(arm, metric) for arm in arms]
    return [one for one in scored if one.estimates]


def _score(arm: Arm, metric: str) -> ArmScores:
    items: dict[str, list[Items]] = {}
    for view in arm.views:
        for dataset, own in end_items(view).items():
            items.setdefault(dataset, []).append(own)
    items = {name: items[name] for name in sorted(items, key=_set_order)}
    tables = {name: score_table(own, metric, shared_ids(own), f"{arm.label}, {name}") for name, own in items.items()}
    tables = {name: table for name, table in tables.items() if table and table[0]}
    sets = list(tables.values())
    together = len(sets) > 1 and len({len(table) for table in sets}) == 1
    return ArmScores(
        arm,
        items,
        {name: estimate(table) for name, table in tables.items()},
        average(sets) if together else None,
        average(sets, weighting="questions") if together else None,
    )


def shared_ids(items: Sequence[Items]) -> list[str]:
    """The ids that all seeds answered, in the order of the first."""
    return [one for one in items[0] if all(one in other for other in items[1:])]


def compare_arms(scored: Sequence[ArmScores], baselines: Sequence[ArmScores], metric: str = "em") -> list[Against]:
    """Paired tests of every arm against each baseline on the questions that both answered, Holm over data sets."""
    against = []
    for letter, base in zip("abcdefghijklmnoprstuvwxyz", baselines, strict=False):
        found = {one.arm.label: _paired(one, base, metric) for one in scored if one is not base}
        against.append(Against(letter, base.arm.label, found))
    return against


def _paired(one: ArmScores, base: ArmScores, metric: str) -> dict[str, Comparison]:
    mine: dict[str, Any] = {}
    theirs: dict[str, Any] = {}
    for name in one.items:
        ids = shared_ids([*one.items[name], *base.items[name]]) if name in base.items else []
        if ids:
            mine[name] = score_table(one.items[name], metric, ids, one.arm.label)
            theirs[name] = score_table(base.items[name], metric, ids, base.arm.label)
    return compare_sets(mine, theirs)


def main_table(
    scored: Sequence[ArmScores],
    against: Sequence[Against] = (),
    published: Sequence[Published] = (),
    *,
    metric: str = "em",
    intervals: bool = False,
) -> Table:
    """One row per arm and published row, one column per data set; the best measured value bold, the second underlined.

    Raises:
        UsageError: no arm was evaluated and nothing published is asked for, or that has no score on these data sets.
    """
    if not scored and not published:
        raise UsageError("no evaluation with its items was found; there is nothing to put into this table")
    measured = dict.fromkeys(name for one in scored for name in one.estimates)
    datasets = sorted(measured or dict.fromkeys(SETS), key=_set_order)
    published = _with_scores(published, datasets)
    many = len(datasets) > 1
    weighted = many and any(_differs(one) for one in scored)
    seeds = any(_seeds(one) > 1 for one in scored)
    columns = [Column("method", False), *([Column("seeds")] if seeds else []), *map(Column, datasets)]
    columns += [Column("avg")] * many + [Column("avg by question")] * weighted
    values = {name: [one.estimates.get(name) for one in scored] for name in datasets}
    values |= {"avg": [one.macro if len(one.estimates) == len(datasets) else None for one in scored]} if many else {}
    values |= {"avg by question": [one.weighted for one in scored]} if weighted else {}
    ranks = {name: _ranks(column) for name, column in values.items()}
    rows = []
    for place, one in enumerate(scored):
        row = [Cell(one.arm.label), *([Cell(str(_seeds(one)))] if seeds else [])]
        for name, column in values.items():
            letters, hint = _letters(one.arm.label, name, against)
            row.append(_cell(column[place], ranks[name][place], letters, hint, intervals))
        rows.append(tuple(row))
    for quoted in published:
        row = [Cell(quoted.label, letters=f"†{quoted.certainty}", hint=f"{quoted.source}. {quoted.note}".strip())]
        row += [Cell("")] * seeds + [Cell(percent(quoted.scores.get(name))) for name in datasets]
        complete = all(name in quoted.scores for name in datasets) and set(datasets) == set(SETS)
        row += [Cell(percent(quoted.average) if complete else "")] * many + [Cell("")] * weighted
        rows.append(tuple(row))
    records = [_record(one, against, metric) for one in scored] + [_published_record(one) for one in published]
    return Table(
        name="main",
        title=f"{METRIC_NAMES.get(metric, metric)} (%) by method and data set",
        columns=tuple(columns),
        rows=tuple(rows),
        records=records,
        notes=tuple(_notes(scored, against, published, metric, intervals, any(map(any, ranks.values())))),
        quoted=frozenset(range(len(scored), len(rows))),
        fields=("method", "metric", "published"),
        flat=[_flat(record) for record in records],
    )


def _with_scores(published: Sequence[Published], datasets: Sequence[str]) -> list[Published]:
    chosen = [one for one in published if any(name in one.scores for name in datasets)]
    if published and not chosen:
        raise UsageError(f"--published: none of these rows has a score on {', '.join(datasets)}; drop the option")
    return chosen


def _set_order(name: str) -> tuple[int, str]:
    return (SETS.index(name), "") if name in SETS else (len(SETS), name)


def _seeds(one: ArmScores) -> int:
    return max((estimated.seeds for estimated in one.estimates.values()), default=0)


def _differs(one: ArmScores) -> bool:
    return one.macro is not None and one.weighted is not None and abs(one.macro.mean - one.weighted.mean) > 5e-4


def _ranks(column: Sequence[Estimate | None]) -> list[int]:
    """1 for the best shown value, 2 for the next, 0 for the others; nothing is best among fewer than two."""
    shown = [None if one is None else round(one.mean, 3) for one in column]
    levels = sorted({value for value in shown if value is not None}, reverse=True)
    if sum(value is not None for value in shown) < 2 or len(levels) < 2:
        return [0] * len(shown)
    return [levels.index(value) + 1 if value in levels[:2] else 0 for value in shown]


def _letters(label: str, dataset: str, against: Sequence[Against]) -> tuple[str, str]:
    letters, hints = "", []
    for one in against:
        found = one.found.get(label, {}).get(dataset)
        if found is None:
            continue
        p = found.p_permutation_holm
        if p < SIGNIFICANT:
            letters += one.letter if found.difference.mean > 0 else f"-{one.letter}"
        gain = f"{100 * found.difference.mean:+.1f} against {one.baseline}, p {p:.3g} (Holm)"
        hints.append(gain)
    return letters, "; ".join(hints)


def _cell(value: Estimate | None, rank: int, letters: str, hint: str, intervals: bool) -> Cell:
    if value is None:
        return Cell("")
    text = percent(value.mean)
    bounds = f"95 % interval {percent(value.low)} to {percent(value.high)}, {value.questions} questions"
    if intervals:
        text += f" [{percent(value.low)}, {percent(value.high)}]"
    return Cell(text, rank == 1, rank == 2, letters, "; ".join(filter(None, [bounds, hint])))


def _notes(
    scored: Sequence[ArmScores],
    against: Sequence[Against],
    published: Sequence[Published],
    metric: str,
    intervals: bool,
    ranked: bool,
) -> list[str]:
    notes = ["Best measured value bold, second underlined."] if ranked else []
    for one in against:
        notes.append(
            f"{one.letter}: better than {one.baseline} (-{one.letter}: worse) in a paired permutation test over the"
            f" questions, p < {SIGNIFICANT:g} after Holm's correction over data sets; seeds are averaged first."
        )
        notes += _power(one)
    if intervals:
        notes.append("[low, high]: 95 % bootstrap interval over questions, and over seeds where there are several.")
    if scored and all(_seeds(one) == 1 for one in scored):
        notes.append("One seed per method: intervals and tests speak of the questions, not of the luck of training.")
    if published:
        marks = ", ".join(f"{mark} {CERTAINTY[mark]}" for mark in dict.fromkeys(one.certainty for one in published))
        notes.append(
            f"† Published {METRIC_NAMES.get(metric, metric)}, not measured here, neither ranked nor tested; {marks}."
        )
        notes += _remarks([(one.protocol, one.label) for one in published if not one.comparable])
        notes += _remarks([(one.note, one.label) for one in published if one.note])
        notes.append("Sources: " + "; ".join(dict.fromkeys(one.source for one in published)) + ".")
    return notes


def _remarks(remarks: Sequence[tuple[str, str]]) -> list[str]:
    """One note for each remark, with the rows that it is about."""
    return [
        f"† {remark}: {'; '.join(label for other, label in remarks if other == remark)}."
        for remark in dict.fromkeys(remark for remark, _ in remarks)
    ]


def _power(against: Against) -> list[str]:
    """The smallest true difference that the questions at hand would show, for the worst arm of each data set."""
    worst: dict[str, float] = {}
    for found in against.found.values():
        for name, one in found.items():
            worst[name] = max(worst.get(name, 0.0), one.detectable or 0.0)
    shown = ", ".join(f"{name} {100 * worst[name]:.1f}" for name in sorted(worst, key=_set_order) if worst[name])
    return [f"Smallest difference from {against.baseline} shown with 80 % power, in points: {shown}."] if shown else []


def _record(one: ArmScores, against: Sequence[Against], metric: str) -> dict[str, Any]:
    return {
        "method": one.arm.label,
        "metric": metric,
        "published": False,
        "runs": [view.name for view in one.arm.views],
        "sets": {name: _estimate_record(value) for name, value in one.estimates.items()},
        "macro": _estimate_record(one.macro),
        "by_question": _estimate_record(one.weighted),
        "against": {
            other.baseline: {name: comparison_record(value) for name, value in other.found[one.arm.label].items()}
            for other in against
            if one.arm.label in other.found
        },
    }


def _estimate_record(value: Estimate | None) -> dict[str, Any] | None:
    if value is None:
        return None
    return {
        "mean": value.mean,
        "se": value.se,
        "low": value.low,
        "high": value.high,
        "questions": value.questions,
        "seeds": value.seeds,
    }


def comparison_record(value: Comparison) -> dict[str, Any]:
    """A comparison as plain values; differences are shares, not points."""
    return {
        "difference": value.difference.mean,
        "low": value.difference.low,
        "high": value.difference.high,
        "relative_gain": value.relative_gain,
        "p": value.p_permutation,
        "p_holm": value.p_permutation_holm,
        "p_mcnemar": value.p_mcnemar,
        "p_mcnemar_holm": value.p_mcnemar_holm,
        "questions": value.difference.questions,
        "questions_needed": value.questions_needed,
        "detectable": value.detectable,
    }


def _published_record(one: Published) -> dict[str, Any]:
    return {
        "method": one.label,
        "metric": one.metric,
        "published": True,
        "sets": dict[str, Any](one.scores),
        "macro": one.average,
        "certainty": one.certainty,
        "protocol": one.protocol,
        "source": one.source,
        "note": one.note,
    }


def _flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """One value per column: SET, SET_low, SET_high, and SET_minus_BASELINE with its p-value."""
    plain = {key: value for key, value in record.items() if not isinstance(value, dict | list)}
    plain["runs"] = " ".join(record.get("runs", []))
    if record["published"]:
        return plain | dict(record["sets"])
    for name, value in (*record["sets"].items(), ("macro", record["macro"]), ("by_question", record["by_question"])):
        if value is not None:
            plain |= {name: value["mean"], f"{name}_low": value["low"], f"{name}_high": value["high"]}
    for baseline, found in record["against"].items():
        for name, value in found.items():
            plain |= {f"{name}_minus_{baseline}": value["difference"], f"{name}_p_holm_{baseline}": value["p_holm"]}
    return plain
