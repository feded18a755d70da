"""How the composition of groups changes over training: which groups give an algorithm something to
learn from.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from tspo_cli.reporting.page.curves import CLASSES
from tspo_cli.reporting.sources.arms import Arm
from tspo_cli.reporting.sources.run_view import RunView
from tspo_cli.reporting.tables.table import Column, Table, cells, percent

PARTS = 4
_MORE = (
    ("groups/zero_signal_grpo", "no signal for GRPO"),
    ("groups/recovered_by_folr", "recovered by FOLR"),
)


def classes_table(arms: Sequence[Arm]) -> Table:
    """Shares of groups in each quarter of the steps, means over steps and seeds, for every arm that
    logged them.
    """
    records = [record for arm in arms for record in _records(arm)]
    names = [label for _, label in (*CLASSES, *_MORE)]
    return Table(
        name="classes",
        title="Classes of groups over training (% of groups)",
        columns=(Column("method", False), Column("steps"), *map(Column, names)),
        rows=tuple(
            cells(
                [
                    one["method"],
                    f"{one['first_step']}-{one['last_step']}",
                    *(percent(one[name]) for name in names),
                ]
            )
            for one in records
        ),
        records=records,
        notes=("Means over the steps of each quarter and over seeds.",) if records else (),
        fields=("method", "first_step", "last_step", "seeds", *names),
    )


def _records(arm: Arm) -> list[dict[str, Any]]:
    logs = [log for view in arm.views if (log := _logged(view))]
    last = max((int(record["step"]) for log in logs for record in log), default=0)
    edges = [round(last * part / PARTS) for part in range(PARTS + 1)]
    found = []
    for low, high in pairwise(edges):
        some = [record for log in logs for record in log if low < record["step"] <= high]
        if some:
            shares = {label: _mean(some, key) for key, label in (*CLASSES, *_MORE)}
            span = {"first_step": low + 1, "last_step": high, "seeds": len(logs)}
            found.append({"method": arm.label, **span, **shares})
    return found


def _logged(view: RunView) -> list[dict[str, Any]]:
    return [record for record in view.metrics() if all(key in record for key, _ in CLASSES)]


def _mean(records: Sequence[dict[str, Any]], key: str) -> float | None:
    values = [float(record[key]) for record in records if isinstance(record.get(key), int | float)]
    return sum(values) / len(values) if values else None
