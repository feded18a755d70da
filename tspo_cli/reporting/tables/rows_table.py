"""The result rows as a table: one line per run, evaluated step and data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tspo_cli.console import counted
from tspo_cli.reporting.rendering.table import Column, Table, cells, number, p_text, percent
from tspo_cli.reporting.scores.baseline import Difference
from tspo_cli.reporting.scores.end_rows import Row


@dataclass(frozen=True, slots=True)
class Field:
    """One column: heading, the text of a record, and whether it holds numbers."""

    heading: str
    cell: Callable[[dict[str, Any]], str]
    numeric: bool = True


def records(
    rows: Sequence[Row], differences: Sequence[Difference | None] | None = None
) -> list[dict[str, Any]]:
    """The rows as plain objects; with a baseline each also has `baseline`, `delta_em`, `p` and
    `shared`.
    """
    plain = [asdict(row) for row in rows]
    for record, difference in zip(plain, differences or [], strict=False):
        record |= {
            "baseline": difference.baseline if difference else None,
            "delta_em": difference.delta_em if difference else None,
            "p": difference.p if difference else None,
            "shared": difference.shared if difference else None,
        }
    return plain


_FIELDS = (
    Field("run", lambda row: row["run"], numeric=False),
    Field("algorithm", lambda row: row["algorithm"], numeric=False),
    Field("seed", lambda row: _plain(row["seed"])),
    Field("step", lambda row: "" if row["evaluation"] else _plain(row["step"])),
    Field("data set", lambda row: row["dataset"], numeric=False),
    Field("method", lambda row: row["method"], numeric=False),
    Field("n", lambda row: _plain(row["n"])),
    Field("EM %", lambda row: percent(row["em"])),
    Field("95 % interval", lambda row: _interval(row)),
    Field("EM vs baseline", lambda row: number(row.get("delta_em"), "{:+.1f}", 100)),
    Field("p (McNemar)", lambda row: p_text(row.get("p"))),
    Field("F1 %", lambda row: percent(row["f1"])),
    Field("answer found %", lambda row: percent(row["answer_in_retrieved"])),
    Field("gold recall %", lambda row: percent(row["gold_recall"])),
    Field("searches", lambda row: number(row["searches"], "{:.2f}")),
    Field("invalid %", lambda row: percent(row["invalid_share"])),
    Field("no answer %", lambda row: percent(row["no_answer_share"])),
    Field("failed", lambda row: _plain(row["failed"] or None)),
    Field("refused", lambda row: _plain(row["refused"] or None)),
    Field("invalid calls", lambda row: number(row["invalid_calls"] or None, "{:.2f}")),
    Field("learning rate", lambda row: number(row["lr"], "{:g}")),
)


def results_table(rows: list[dict[str, Any]]) -> Table:
    """`records` for people and machines; columns that say nothing in any row are left out for
    people.
    """
    shown = [field for field in _FIELDS if not rows or any(field.cell(row) for row in rows)]
    return Table(
        name="rows",
        title="All results",
        columns=tuple(Column(field.heading, field.numeric) for field in shown),
        rows=tuple(cells([field.cell(row) for field in shown]) for row in rows),
        records=rows,
        notes=_notes(rows),
        fields=tuple(Row.__dataclass_fields__),
    )


def _notes(rows: list[dict[str, Any]]) -> tuple[str, ...]:
    notes = [
        "95 % interval: bootstrap over the questions of one run (Wilson's where all answers are "
        "alike); it says nothing of other seeds."
    ] * bool(rows)
    if any(row.get("p") is not None for row in rows):
        notes.append(
            "p: exact McNemar test on the questions that the row and its baseline both answered, "
            "one test at a time;"
            " --table tests corrects them over the data sets."
        )
    baselines = {row.get("baseline") for row in rows} - {None}
    for row in rows:
        if row.get("shared") not in (None, row["n"]):
            notes.append(
                f"{row['run']}: compared with {row['baseline']} on the "
                f"{counted(row['shared'], 'question')} "
                f"of {row['dataset']} that both answered, of {row['n']}."
            )
        if row["failed"]:
            part = ", a baseline" if row["run"] in baselines else ""
            notes.append(
                f"{row['run']}{part}: a search, or a request of the model, failed for "
                f"{row['failed']} of {counted(row['n'], 'question')} of {row['dataset']}, "
                f"which count as "
                "wrong: its scores are too low."
            )
    return tuple(notes)


def _plain(value: Any) -> str:
    return "" if value is None else str(value)


def _interval(row: dict[str, Any]) -> str:
    return "" if row["em_low"] is None else f"{percent(row['em_low'])} to {percent(row['em_high'])}"
