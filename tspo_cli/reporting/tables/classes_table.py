"""`--table classes`: the composition of groups over training.

It shows which share of the groups gives an algorithm something to learn from.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from tspo_cli.reporting.rendering.table import Column, Table, cells, percent
from tspo_cli.reporting.sources.arms import Arm
from tspo_cli.reporting.sources.curve_data import GROUP_CLASSES, steps_with_classes

QUARTERS = 4
_SIGNALS = (
    ("groups/zero_signal_grpo", "no signal for GRPO"),
    ("groups/recovered_by_folr", "recovered by FOLR"),
)
_COLUMNS = (*GROUP_CLASSES, *_SIGNALS)


def classes_table(arms: Sequence[Arm]) -> Table:
    """Shares of groups in each quarter of the steps, for every arm that logged them.

    The shares are means over steps and seeds.
    """
    records = [record for arm in arms for record in _records(arm)]
    names = [name for _, name in _COLUMNS]
    return Table(
        name="classes",
        title="Classes of groups over training (% of groups)",
        columns=(Column("method", False), Column("steps"), *map(Column, names)),
        rows=tuple(
            cells(
                [
                    record["method"],
                    "-".join(map(str, dict.fromkeys((record["first_step"], record["last_step"])))),
                    *(percent(record[name]) for name in names),
                ]
            )
            for record in records
        ),
        records=records,
        notes=("Means over the steps of each quarter and over seeds.",) if records else (),
        fields=("method", "first_step", "last_step", "seeds", *names),
    )


def _records(arm: Arm) -> list[dict[str, Any]]:
    logs = [log for view in arm.views if (log := steps_with_classes(view))]
    steps = [metrics for log in logs for metrics in log]
    last = max((int(metrics["step"]) for metrics in steps), default=0)
    edges = [round(last * quarter / QUARTERS) for quarter in range(QUARTERS + 1)]
    records = []
    for low, high in pairwise(edges):
        quarter = [metrics for metrics in steps if low < metrics["step"] <= high]
        if quarter:
            span = {"first_step": low + 1, "last_step": high, "seeds": len(logs)}
            shares = {name: _mean(quarter, key) for key, name in _COLUMNS}
            records.append({"method": arm.label, **span, **shares})
    return records


def _mean(steps: Sequence[dict[str, Any]], key: str) -> float | None:
    values = [float(metrics[key]) for metrics in steps if isinstance(metrics.get(key), int | float)]
    return sum(values) / len(values) if values else None
