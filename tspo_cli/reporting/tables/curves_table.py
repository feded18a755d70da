"""`--table curves`: EM over training, with the spread over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tspo_cli.reporting.rendering.table import Column, Table, cells, percent
from tspo_cli.reporting.sources.arms import Arm
from tspo_cli.reporting.sources.curve_data import arm_datasets, em_by_step, mean_low_high


def curves_table(arms: Sequence[Arm]) -> Table:
    """One line per arm, data set and evaluated step: mean, lowest and highest EM over seeds."""
    records = [
        record for arm in arms for dataset in arm_datasets(arm) for record in _records(arm, dataset)
    ]
    return Table(
        name="curves",
        title="Exact match over training",
        columns=(
            Column("method", False),
            Column("data set", False),
            Column("step"),
            Column("seeds"),
            Column("EM %"),
            Column("lowest seed"),
            Column("highest seed"),
        ),
        rows=tuple(cells(_texts(record)) for record in records),
        records=records,
        fields=("method", "dataset", "step", "seeds", "em", "em_lowest", "em_highest"),
    )


def _records(arm: Arm, dataset: str) -> list[dict[str, Any]]:
    records = []
    for step, scores in em_by_step(arm, dataset):
        mean, low, high = mean_low_high([score.em for score in scores])
        records.append(
            {
                "method": arm.label,
                "dataset": dataset,
                "step": step,
                "seeds": len(scores),
                "em": mean,
                "em_lowest": low,
                "em_highest": high,
            }
        )
    return records


def _texts(record: dict[str, Any]) -> list[str]:
    shares = [percent(record[key]) for key in ("em", "em_lowest", "em_highest")]
    return [record["method"], record["dataset"], str(record["step"]), str(record["seeds"]), *shares]
