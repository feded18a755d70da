"""Where the numbers come from: the command of every run and evaluation, and what its result depends
on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tspo_cli.reporting.sources.arms import Arm
from tspo_cli.reporting.sources.overview import end_scores
from tspo_cli.reporting.sources.run_view import RunView
from tspo_cli.reporting.tables.table import Column, Table, cells


def commands_table(arms: Sequence[Arm]) -> Table:
    """One line per run and evaluation with the command that makes its numbers again."""
    records = [_record(arm.label, view) for arm in arms for view in arm.views]
    return Table(
        name="commands",
        title="Commands that make these numbers again",
        columns=tuple(
            Column(head, False)
            for head in ("method", "run", "seed", "data sets", "version", "command")
        ),
        rows=tuple(
            cells(
                [
                    one["method"],
                    one["run"],
                    _text(one["seed"]),
                    ", ".join(one["datasets"]),
                    one["version"] or "",
                ]
            )
            + cells([one["command"]])
            for one in records
        ),
        records=records,
        fields=("method", "run", "seed", "command"),
        flat=[
            one
            | {
                "datasets": " ".join(one["datasets"]),
                "signatures": " ".join(one["signatures"].values()),
            }
            for one in records
        ],
    )


def _record(label: str, view: RunView) -> dict[str, Any]:
    scores = end_scores(view)
    environment = view.environment()
    return {
        "method": label,
        "run": view.name,
        "seed": view.setting("seed"),
        "datasets": list(scores),
        "command": view.command,
        "path": str(view.path),
        "model": view.model or None,
        "version": (environment.get("versions") or {}).get("tspo-cli"),
        "git": environment.get("git"),
        "signatures": {
            name: own["signature"] for name, own in scores.items() if own.get("signature")
        },
    }


def _text(value: Any) -> str:
    return "" if value is None else str(value)
