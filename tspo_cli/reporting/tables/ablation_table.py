"""The ablation table: what each arm changes against a base arm, and what that does to the score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tspo_cli.errors import UsageError
from tspo_cli.reporting.scores.scored_items import ArmScores, compare_arms
from tspo_cli.reporting.sources.arms import arm_settings, differing
from tspo_cli.reporting.tables.main_records import comparison_record
from tspo_cli.reporting.tables.metric import Metric
from tspo_cli.reporting.tables.table import Cell, Column, Table, cells, p_text


def ablation_table(scored: Sequence[ArmScores], base: ArmScores, metric: str = "em") -> Table:
    """One line per data set and trained arm of the base's kind (sft or rl); the columns are the
    settings that differ.

    Raises:
        UsageError: the base was not trained here, or no other arm was.
    """
    unit = Metric(metric)
    others = [one for one in scored if one is not base and _kind(one) == _kind(base)]
    if base.arm.is_evaluation or not others:
        raise UsageError(
            "an ablation compares training runs of one kind: give a trained --baseline and another "
            "run"
        )
    ordered = [base, *others]
    settings = [arm_settings(one.arm) for one in ordered]
    keys = differing(settings)
    against = compare_arms(ordered, [base], metric)[0].found
    lines: list[tuple[Cell, ...]] = []
    records: list[dict[str, Any]] = []
    for one, own in zip(ordered, settings, strict=True):
        for dataset, value in one.estimates.items():
            found = against.get(one.arm.label, {}).get(dataset)
            changed = {key: own.get(key) for key in keys}
            same = [one is not base and own.get(key) == settings[0].get(key) for key in keys]
            facts = [
                str(value.seeds),
                dataset,
                unit.text(value.mean),
                unit.interval(value.low, value.high),
            ]
            facts += ["", "", ""] if found is None else [
                unit.difference(found.difference.mean),
                unit.interval(found.difference.low, found.difference.high, signed=True),
                p_text(found.p_permutation_holm),
            ]  # fmt: skip
            shown = [
                "·" if equal else _text(changed[key]) for key, equal in zip(keys, same, strict=True)
            ]
            lines.append(cells([*shown, *facts]))
            records.append(
                {"method": one.arm.label, **changed, "dataset": dataset, "seeds": value.seeds}
                | {"metric": metric, "score": value.mean, "low": value.low, "high": value.high}
                | {
                    "base": base.arm.label,
                    **({} if found is None else comparison_record(found) | _bounds(found)),
                }
            )
    heads = [
        "seeds",
        "data set",
        unit.heading,
        "95 % interval",
        "difference",
        "its interval",
        "p (Holm)",
    ]
    return Table(
        name="ablation",
        title=f"Ablation: changes against {base.arm.label}",
        columns=tuple(
            [Column(key, False) for key in keys]
            + [Column(head, head != "data set") for head in heads]
        ),
        rows=tuple(lines),
        records=records,
        notes=(
            f"First the base, {base.arm.label}; · marks a setting equal to its. Differences"
            f"{'' if unit.is_count else ' in points'} on the questions that both answered, with "
            "bootstrap intervals;"
            " p: paired permutation test, Holm over data sets.",
        ),
    )


def _kind(one: ArmScores) -> str:
    return "evaluation" if one.arm.is_evaluation else str(one.arm.views[0].setting("kind"))


def _bounds(found: Any) -> dict[str, float]:
    return {"difference_low": found.difference.low, "difference_high": found.difference.high}


def _text(value: Any) -> str:
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
