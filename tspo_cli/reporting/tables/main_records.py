"""The main table's records for programs: every score with its interval, every comparison with its
p-values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tspo_cli.evaluation.paired_tests import Comparison
from tspo_cli.evaluation.statistics import Estimate
from tspo_cli.reporting.scores.scored_items import Against, ArmScores, Gain
from tspo_cli.reporting.sources.published import Published

_ESTIMATE = ("mean", "se", "low", "high", "questions", "seeds")


def arm_record(one: ArmScores, against: Sequence[Against], metric: str) -> dict[str, Any]:
    """A measured row. `sets`, `macro` and `by_question` are estimates, `against` comparisons by
    baseline and set.
    """
    label = one.arm.label
    return {
        "method": label,
        "metric": metric,
        "published": False,
        "runs": [view.name for view in one.arm.views],
        "commands": [view.command for view in one.arm.views],
        "sets": {name: estimate_record(value) for name, value in one.estimates.items()},
        "macro": estimate_record(one.macro),
        "by_question": estimate_record(one.weighted),
        "against": {
            other.baseline: {
                name: comparison_record(value) for name, value in other.found[label].items()
            }
            for other in against
            if label in other.found
        },
        "gain": {
            other.baseline: gain_record(other.gains[label])
            for other in against
            if label in other.gains
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


def published_record(one: Published) -> dict[str, Any]:
    """A quoted row in the same shape: nothing is known of its intervals, and it is compared with
    nothing.
    """
    return {
        "method": one.label,
        "metric": one.metric,
        "published": True,
        "runs": [],
        "commands": [],
        "sets": {
            name: dict.fromkeys(_ESTIMATE) | {"mean": value} for name, value in one.scores.items()
        },
        "macro": None if one.average is None else dict.fromkeys(_ESTIMATE) | {"mean": one.average},
        "by_question": None,
        "against": {},
        "gain": {},
        "certainty": one.certainty,
        "protocol": one.protocol,
        "source": one.source,
        "note": one.note,
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
    for baseline, found in record["against"].items():
        for name, value in found.items():
            plain |= {
                f"{name}_minus_{baseline}": value["difference"],
                f"{name}_p_holm_{baseline}": value["p_holm"],
            }
    for baseline, found in record["gain"].items():
        plain[f"macro_gain_{baseline}"] = found["relative_gain"]
    return plain
