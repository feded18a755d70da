"""The main table's records for programs: every score with its interval, every comparison with its
p-values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tspo_cli.evaluation.statistics.estimates import Estimate
from tspo_cli.evaluation.statistics.paired_tests import Comparison
from tspo_cli.reporting.scores.scored_items import ArmScores, BaselineComparison, Gain
from tspo_cli.reporting.sources.published import Published

_ESTIMATE = ("mean", "se", "low", "high", "questions", "seeds")


def arm_record(
    scores: ArmScores, comparisons: Sequence[BaselineComparison], metric: str
) -> dict[str, Any]:
    """A measured row. `sets`, `macro` and `by_question` are estimates; `against` has the
    comparisons by baseline and data set.
    """
    label = scores.arm.label
    return {
        "method": label,
        "metric": metric,
        "published": False,
        "runs": [view.name for view in scores.arm.views],
        "commands": [view.command for view in scores.arm.views],
        "sets": {name: estimate_record(value) for name, value in scores.estimates.items()},
        "macro": estimate_record(scores.macro),
        "by_question": estimate_record(scores.weighted),
        "against": {
            comparison.baseline: {
                name: comparison_record(result)
                for name, result in comparison.by_dataset[label].items()
            }
            for comparison in comparisons
            if label in comparison.by_dataset
        },
        "gain": {
            comparison.baseline: gain_record(comparison.gains[label])
            for comparison in comparisons
            if label in comparison.gains
        },
        **dict.fromkeys(("certainty", "protocol", "source", "note")),
    }


def estimate_record(value: Estimate | None) -> dict[str, Any] | None:
    """An estimate as plain values."""
    if value is None:
        return None
    return {name: getattr(value, name) for name in _ESTIMATE}


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


def gain_record(value: Gain) -> dict[str, Any]:
    """The difference of macro averages as plain values; its interval is None where data sets have
    different seeds.
    """
    difference = value.difference
    return {
        "difference": None if difference is None else difference.mean,
        "low": None if difference is None else difference.low,
        "high": None if difference is None else difference.high,
        "baseline_score": value.baseline_mean,
        "relative_gain": value.relative,
        "questions": None if difference is None else difference.questions,
    }


def published_record(row: Published) -> dict[str, Any]:
    """A published row in the same shape, without intervals and comparisons."""
    return {
        "method": row.label,
        "metric": row.metric,
        "published": True,
        "runs": [],
        "commands": [],
        "sets": {
            name: dict.fromkeys(_ESTIMATE) | {"mean": value} for name, value in row.scores.items()
        },
        "macro": None if row.average is None else dict.fromkeys(_ESTIMATE) | {"mean": row.average},
        "by_question": None,
        "against": {},
        "gain": {},
        "certainty": row.certainty,
        "protocol": row.protocol,
        "source": row.source,
        "note": row.note,
    }


def flat_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """One value per column: SET, SET_low, SET_high, SET_minus_BASELINE with its p-value, and the
    gain.
    """
    plain = {key: value for key, value in record.items() if not isinstance(value, dict | list)}
    plain["runs"] = " ".join(record["runs"])
    plain["commands"] = " && ".join(record["commands"])
    for name, value in (
        *record["sets"].items(),
        ("macro", record["macro"]),
        ("by_question", record["by_question"]),
    ):
        if value is not None:
            plain[name] = value["mean"]
            if value["low"] is not None:
                plain |= {f"{name}_low": value["low"], f"{name}_high": value["high"]}
    for baseline, comparisons in record["against"].items():
        for name, value in comparisons.items():
            plain |= {
                f"{name}_minus_{baseline}": value["difference"],
                f"{name}_p_holm_{baseline}": value["p_holm"],
            }
    for baseline, gain in record["gain"].items():
        plain[f"macro_gain_{baseline}"] = gain["relative_gain"]
    return plain
