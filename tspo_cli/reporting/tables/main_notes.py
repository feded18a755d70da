"""The notes below the main table: what its numbers are, and what makes them unfair."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tspo_cli.evaluation.item_record import WRONG_WHERE_NONE
from tspo_cli.evaluation.summary import MOST_SILENT
from tspo_cli.reporting.rendering.metric import Metric
from tspo_cli.reporting.scores.scored_items import (
    ArmScores,
    BaselineComparison,
    averaged,
    set_order,
    shared_ids,
)
from tspo_cli.reporting.sources.published import CERTAINTY, Published

SIGNIFICANT = 0.05
AVERAGE = "avg"


@dataclass(frozen=True, slots=True)
class MainTableInput:
    """What the table shows. `is_ranked`: some column marks its best value."""

    scored: Sequence[ArmScores]
    comparisons: Sequence[BaselineComparison]
    published: Sequence[Published]
    unit: Metric
    intervals: bool
    is_ranked: bool

    @property
    def datasets(self) -> list[str]:
        """The measured data sets in the order of the columns."""
        names = dict.fromkeys(name for scores in self.scored for name in scores.estimates)
        return sorted(names, key=set_order)


def main_notes(table: MainTableInput) -> list[str]:
    """The notes, one sentence or two each."""
    return [
        *_score_notes(table),
        *_question_notes(table),
        *_undefined_notes(table),
        *_verdict_notes(table),
        *_failed_notes(table),
        *_silent_notes(table),
        *_refusal_notes(table),
        *_server_notes(table),
        *_call_notes(table),
        *_average_notes(table),
        *_comparison_notes(table),
        *_seed_notes(table),
        *_published_notes(table),
    ]


def _score_notes(table: MainTableInput) -> Iterator[str]:
    if table.is_ranked:
        yield "Best measured value bold, second underlined."
    if table.intervals and table.scored:
        yield (
            "[low, high]: 95 % bootstrap interval over questions, and over seeds where there are "
            "several (Wilson where all answers are alike)."
        )


def _question_notes(table: MainTableInput) -> list[str]:
    """The number of questions behind each column, then what makes a column unfair."""
    sizes = []
    warnings: list[str] = []
    for name in table.datasets:
        arms = [scores for scores in table.scored if name in scores.estimates]
        asked = {scores.estimates[name].questions for scores in arms}
        facts = [fact for scores in arms for fact in scores.facts[name]]
        whole = max((int(fact.get("benchmark_size") or 0) for fact in facts), default=0)
        of = f" of {whole:,}" if whole > max(asked) else ""
        counts = " to ".join(f"{count:,}" for count in sorted({min(asked), max(asked)}))
        sizes.append(f"{name} {counts}{of}")
        warnings += [f"{name}: {reason}." for reason in _unfair(asked, facts)]
    return [f"Questions: {', '.join(sizes)}.", *warnings] if sizes else []


def _unfair(asked: set[int], facts: Sequence[dict[str, Any]]) -> Iterator[str]:
    if len({fact["answer"] for fact in facts if "answer" in fact}) > 1:
        yield "the baselines' answers were read in different ways (eval.answer)"
    if len(asked) > 1 or _differ(facts, "data"):
        yield "the methods did not answer the same questions"
    if _differ(facts, "corpus"):
        yield "the methods searched different corpora"
    elif _differ(facts, "index"):
        yield "the methods searched one corpus with different indexes"
    if len({fact["k"] for fact in facts if fact.get("searches") and "k" in fact}) > 1:
        yield "the methods were given different numbers of passages per search"


def _undefined_notes(table: MainTableInput) -> Iterator[str]:
    """Arms whose score is not of every question: some have no such score."""
    for scores in table.scored:
        counts = {
            name: (len(shared_ids(items)), scores.estimates[name].questions)
            for name, items in scores.items.items()
            if name in scores.estimates
        }
        shown = ", ".join(
            f"{name} {asked - scored:,} of {asked:,}"
            for name, (asked, scored) in counts.items()
            if scored < asked
        )
        if shown:
            yield f"{scores.arm.label}: questions without {table.unit.name}, left out: {shown}."


def _verdict_notes(table: MainTableInput) -> Iterator[str]:
    """Arms of whose answers a judge did not say whether they are correct."""
    if table.unit.key not in WRONG_WHERE_NONE:
        return
    for scores in table.scored:
        counts = {
            name: sum(item[table.unit.key] is None for items in seeds for item in items.values())
            for name, seeds in scores.items.items()
        }
        shown = ", ".join(f"{name} {count:,}" for name, count in counts.items() if count)
        if shown:
            yield (
                f"{scores.arm.label}: replies of the judge that cannot be read, which count as "
                f"incorrect: {shown}; tspo eval --resume --retry-refused asks it again."
            )


def _failed_notes(table: MainTableInput) -> Iterator[str]:
    """Arms whose scores an outage made lower."""
    baselines = {comparison.baseline for comparison in table.comparisons}
    for scores in table.scored:
        counts = {
            name: sum(int(fact.get("failed") or 0) for fact in scores.facts.get(name, ()))
            for name in table.datasets
        }
        if any(counts.values()):
            shown = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
            part = " (a baseline)" if scores.arm.label in baselines else ""
            yield (
                f"{scores.arm.label}{part}: questions that count as wrong because a search, or a "
                f"request of the model, failed: {shown}; tspo eval --resume asks them again."
            )


def _silent_notes(table: MainTableInput) -> Iterator[str]:
    """Arms that mostly gave no answer: their scores measure the form, not the knowledge."""
    arms = []
    for scores in table.scored:
        shares = [
            (name, float(fact.get("no_answer_share") or 0.0))
            for name in table.datasets
            for fact in scores.facts.get(name, ())
        ]
        silent = dict(pair for pair in shares if pair[1] > MOST_SILENT)
        if silent:
            shown = ", ".join(f"{name} {share:.0%}" for name, share in silent.items())
            arms.append(f"{scores.arm.label}: {shown}")
    if arms:
        yield (
            f"Questions without any answer, which count as wrong: {'; '.join(arms)}. See "
            "eval.answer, prompt and rollout.max_new_tokens of these."
        )


def _refusal_notes(table: MainTableInput) -> Iterator[str]:
    for scores in table.scored:
        shown = ", ".join(
            f"{name} {fact['refused']:,} of {fact['n']:,}"
            for name, fact in _facts_with(table, scores, "refused")
        )
        if shown:
            yield (
                f"{scores.arm.label}: questions that the server refused, which count as wrong: "
                f"{shown}; tspo eval --resume --retry-refused asks them again."
            )


def _server_notes(table: MainTableInput) -> Iterator[str]:
    """Arms whose server answered as another model than was asked for, or as several."""
    for scores in table.scored:
        shown = ", ".join(
            f"{name} " + " and ".join(fact["served_models"])
            for name, fact in _facts_with(table, scores, "served_models")
        )
        if shown:
            yield f"{scores.arm.label}: the server answered as another model: {shown}."


def _call_notes(table: MainTableInput) -> Iterator[str]:
    for scores in table.scored:
        shown = ", ".join(
            f"{name} {fact['invalid_calls']:.2f}"
            for name, fact in _facts_with(table, scores, "invalid_calls")
        )
        if shown:
            yield f"{scores.arm.label}: invalid calls of functions per question: {shown}."


def _facts_with(
    table: MainTableInput, scores: ArmScores, key: str
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The recorded scores of an arm with something under `key`, with the data set of each."""
    for name in table.datasets:
        yield from ((name, fact) for fact in scores.facts.get(name, ()) if fact.get(key))


def _differ(facts: Iterable[dict[str, Any]], name: str) -> bool:
    digests = {(fact.get("digests") or {}).get(name) for fact in facts}
    return len({digest for digest in digests if digest}) > 1


def _average_notes(table: MainTableInput) -> Iterator[str]:
    names = averaged(table.datasets)
    if len(names) > 1:
        yield f"{AVERAGE}: mean of {', '.join(names)}, for methods that have all {len(names)}."


def _comparison_notes(table: MainTableInput) -> Iterator[str]:
    higher, lower = ("higher than", "lower") if table.unit.is_count else ("better than", "worse")
    for comparison in table.comparisons:
        letter = comparison.letter
        yield (
            f"{letter}: {higher} {comparison.baseline} (-{letter}: {lower}) in a paired "
            f"permutation test over the questions, p < {SIGNIFICANT:g} after Holm's correction "
            "over data sets; seeds are averaged first."
        )
        yield from _power_note(comparison, table.unit)
    if table.comparisons:
        yield (
            "Gain: (average - baseline's) / baseline's, over the averaged data sets that both have."
        )


def _power_note(comparison: BaselineComparison, unit: Metric) -> Iterator[str]:
    """The smallest true difference that these questions detect, for the worst arm of a data set."""
    worst: dict[str, float] = {}
    for by_dataset in comparison.by_dataset.values():
        for name, result in by_dataset.items():
            worst[name] = max(worst.get(name, 0.0), result.detectable or 0.0)
    names = [name for name in sorted(worst, key=set_order) if worst[name]]
    shown = [f"{name} {unit.text(worst[name])}" for name in names]
    if shown:
        points = "" if unit.is_count else ", in points"
        yield (
            f"Smallest difference from {comparison.baseline} shown with 80 % power{points}: "
            f"{', '.join(shown)}."
        )


def _seed_notes(table: MainTableInput) -> Iterator[str]:
    if table.scored and all(scores.seeds == 1 for scores in table.scored):
        yield (
            "One seed per method: intervals and tests speak of the questions, not of the luck of "
            "training."
        )


def _published_notes(table: MainTableInput) -> Iterator[str]:
    rows = table.published
    if not rows:
        return
    marks = dict.fromkeys(row.certainty for row in rows)
    explained = ", ".join(f"{mark} {CERTAINTY[mark]}" for mark in marks)
    name = table.unit.name
    yield f"† Published {name}, not measured here, neither ranked nor tested; {explained}."
    yield from _remarks([(row.protocol, row.label) for row in rows if not row.comparable])
    yield from _remarks([(row.note, row.label) for row in rows if row.note])
    yield "Sources: " + "; ".join(dict.fromkeys(row.source for row in rows)) + "."


def _remarks(remarks: Sequence[tuple[str, str]]) -> Iterator[str]:
    """One note for each remark, with the rows that it is about."""
    labels: dict[str, list[str]] = {}
    for remark, label in remarks:
        labels.setdefault(remark, []).append(label)
    for remark, rows in labels.items():
        yield f"† {remark}: {'; '.join(rows)}."
