"""The ablation table: what each arm changes against a base arm, and what that does to the score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tspo_cli.errors import UsageError
from tspo_cli.evaluation.statistics.paired_tests import Comparison
from tspo_cli.reporting.rendering.metric import Metric
from tspo_cli.reporting.rendering.table import Cell, Column, Table, cells, p_text
from tspo_cli.reporting.scores.scored_items import ArmScores, compare_arms
from tspo_cli.reporting.sources.arms import arm_settings, differing
from tspo_cli.reporting.tables.main_records import comparison_record


def ablation_table(scored: Sequence[ArmScores], base: ArmScores, metric: str = "em") -> Table:
    """One line per data set and trained arm of the base's kind (sft or rl); the columns are the
    settings that differ.

    Raises:
        UsageError: the base was not trained here, or no other arm was.
    """
    unit = Metric(metric)
    others = [scores for scores in scored if scores is not base and _kind(scores) == _kind(base)]
    if base.arm.is_evaluation or not others:
        raise UsageError(
            "an ablation compares training runs of one kind: give a trained --baseline and another "
            "run"
        )
    ordered = [base, *others]
    settings = [arm_settings(scores.arm) for scores in ordered]
    keys = differing(settings)
    by_arm = compare_arms(ordered, [base], metric)[0].by_dataset
    lines: list[tuple[Cell, ...]] = []
    records: list[dict[str, Any]] = []
    for scores, arm in zip(ordered, settings, strict=True):
        label = scores.arm.label
        for dataset, value in scores.estimates.items():
            result = by_arm.get(label, {}).get(dataset)
            changed = {key: arm.get(key) for key in keys}
            same = [scores is not base and arm.get(key) == settings[0].get(key) for key in keys]
            facts = [
                str(value.seeds),
                dataset,
                unit.text(value.mean),
                unit.interval(value.low, value.high),
            ]
            facts += ["", "", ""] if result is None else [
                unit.difference(result.difference.mean),
                unit.interval(result.difference.low, result.difference.high, signed=True),
                p_text(result.p_permutation_holm),
            ]  # fmt: skip
            shown = [
                "·" if equal else _text(changed[key]) for key, equal in zip(keys, same, strict=True)
            ]
            lines.append(cells([*shown, *facts]))
            records.append(
                {"method": label, **changed, "dataset": dataset, "seeds": value.seeds}
                | {"metric": metric, "score": value.mean, "low": value.low, "high": value.high}
                | {
                    "base": base.arm.label,
                    **({} if result is None else comparison_record(result) | _bounds(result)),
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
            f"The base, {base.arm.label}, is first; · marks a setting equal to its own. Differences"
            f"{'' if unit.is_count else ' in points'} on the questions that both answered, with "
            "bootstrap intervals;"
            " p: paired permutation test, Holm over data sets.",
        ),
    )


def _kind(scores: ArmScores) -> str:
    arm = scores.arm
    return "evaluation" if arm.is_evaluation else str(arm.views[0].setting("kind"))


def _bounds(result: Comparison) -> dict[str, float | None]:
    return {"difference_low": result.difference.low, "difference_high": result.difference.high}


def _text(value: Any) -> str:
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
