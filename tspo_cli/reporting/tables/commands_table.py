"""`--table commands`: the command of every run and evaluation, with version, commit and model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tspo_cli.reporting.rendering.table import Column, Table, cells
from tspo_cli.reporting.sources.arms import Arm
from tspo_cli.reporting.sources.run_view import RunView

_HEADINGS = ("method", "run", "seed", "data sets", "version", "command")


def commands_table(arms: Sequence[Arm]) -> Table:
    """One line per run and evaluation, with the command that reproduces its numbers."""
    records = [_record(arm.label, view) for arm in arms for view in arm.views]
    return Table(
        name="commands",
        title="Commands that reproduce these numbers",
        columns=tuple(Column(heading, False) for heading in _HEADINGS),
        rows=tuple(cells(_texts(record)) for record in records),
        records=records,
        fields=("method", "run", "seed", "command"),
        flat=[
            record
            | {
                "datasets": " ".join(record["datasets"]),
                "signatures": " ".join(record["signatures"].values()),
            }
            for record in records
        ],
    )


def _record(label: str, view: RunView) -> dict[str, Any]:
    versions = view.environment.get("versions") or {}
    return {
        "method": label,
        "run": view.name,
        "seed": view.setting("seed"),
        "datasets": list(view.last_scores),
        "command": view.command,
        "path": str(view.path),
        "model": view.model or None,
        "version": versions.get("tspo-cli"),
        "git": view.environment.get("git"),
        "signatures": {
            dataset: scores["signature"]
            for dataset, scores in view.last_scores.items()
            if scores.get("signature")
        },
    }


def _texts(record: dict[str, Any]) -> list[str]:
    seed = record["seed"]
    return [
        record["method"],
        record["run"],
        "" if seed is None else str(seed),
        ", ".join(record["datasets"]),
        record["version"] or "",
        record["command"],
    ]
