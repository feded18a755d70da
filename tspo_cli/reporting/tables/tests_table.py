"""Every comparison with a baseline in full: difference, interval, gain, p-values and power, one
line each.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tspo_cli.errors import UsageError
from tspo_cli.evaluation.statistics.paired_tests import Comparison
from tspo_cli.reporting.rendering.metric import Metric
from tspo_cli.reporting.rendering.table import Column, Table, cells, number, p_text
from tspo_cli.reporting.scores.scored_items import (
    ArmScores,
    BaselineComparison,
    Gain,
    set_order,
)
from tspo_cli.reporting.tables.main_records import comparison_record, gain_record

_HEADS = (
    "questions", "seeds", "score", "baseline's", "difference", "95 % interval", "gain",
    "p (permutation)", "p (McNemar)", "needed for 3 points", "shown at 80 % power",
)  # fmt: skip


def comparisons_table(
    scored: Sequence[ArmScores], comparisons: Sequence[BaselineComparison], metric: str = "em"
) -> Table:
    """One line per arm, baseline and data set, then one for the average over the data sets.

    Raises:
        UsageError: there is no baseline, or nothing that shares a question with it.
    """
    unit = Metric(metric)
    lines = [
        line
        for comparison in comparisons
        for scores in scored
        for line in _lines(scores.arm.label, comparison, unit)
    ]
    if not lines:
        raise UsageError(
            "--table tests needs --baseline with the name of a run, algorithm or method that "
            "shares items"
        )
    return Table(
        name="tests",
        title=f"Paired comparisons: {unit.name}",
        columns=(
            *(Column(head, False) for head in ("method", "against", "data set")),
            *map(Column, _HEADS),
        ),
        rows=tuple(cells(texts) for texts, _ in lines),
        records=[record for _, record in lines],
        notes=(
            "Score and baseline's on the questions that both answered; difference with its "
            "bootstrap interval"
            f"{' in points' if not unit.is_count else ''}; gain: difference / baseline's. p-values "
            "are two-sided and"
            " corrected over the data sets (Holm): paired permutation of the questions' scores, "
            "seeds averaged first;"
            " exact McNemar for yes/no scores of one seed.",
            "Needed for 3 points: questions at which a true difference of 3 points shows with 80 % "
            "power; shown: the"
            " smallest true difference that these questions would show. The average has no test of "
            "its own.",
        ),
    )


def _lines(
    label: str, comparison: BaselineComparison, unit: Metric
) -> Iterator[tuple[list[str], dict[str, Any]]]:
    results = comparison.by_dataset.get(label, {})
    baseline = comparison.baseline
    about = {"method": label, "baseline": baseline, "metric": unit.key}
    records = []
    for name in sorted(results, key=set_order):
        value = results[name]
        facts = {
            "dataset": name,
            "seeds": value.difference.seeds,
            "baseline_score": value.baseline_mean,
        }
        records.append(about | facts | comparison_record(value))
        yield [label, baseline, name, *_texts(value, unit)], records[-1]
    gain = comparison.gains.get(label)
    if gain is not None and len(results) > 1:
        # The same keys, so that a program reads one table.
        facts = {
            "dataset": "average",
            "seeds": None if gain.difference is None else gain.difference.seeds,
        }
        record = dict.fromkeys(records[0]) | about | facts | gain_record(gain)
        yield [label, baseline, "average", *_average_texts(gain, unit)], record


def _texts(value: Comparison, unit: Metric) -> list[str]:
    difference = value.difference
    return [
        f"{difference.questions:,}",
        str(difference.seeds),
        unit.text(value.baseline_mean + difference.mean),
        unit.text(value.baseline_mean),
        unit.difference(difference.mean),
        unit.interval(difference.low, difference.high, signed=True),
        number(value.relative_gain, "{:+.1f} %", 100),
        p_text(value.p_permutation_holm),
        p_text(value.p_mcnemar_holm),
        "" if unit.is_count else number(value.questions_needed, "{:,}"),
        unit.text(value.detectable),
    ]


def _average_texts(gain: Gain, unit: Metric) -> list[str]:
    difference = gain.difference
    if difference is None:
        score = ["", "", unit.text(gain.baseline_mean), "", ""]
    else:
        score = [
            f"{difference.questions:,}",
            str(difference.seeds),
            unit.text(gain.baseline_mean + difference.mean),
        ]
        score += [unit.text(gain.baseline_mean), unit.difference(difference.mean)]
        score.append(unit.interval(difference.low, difference.high, signed=True))
    return [*score, number(gain.relative, "{:+.1f} %", 100), "", "", "", ""]
