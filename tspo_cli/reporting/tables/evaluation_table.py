"""A terminal table of evaluation scores."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

COLUMNS = (
    "f1",
    "sub_em",
    "answer_in_retrieved",
    "answer_in_shown",
    "gold_recall",
    "question_gold_recall",
    "searches",
    "observation_cut_share",
    "invalid_share",
    "no_answer_share",
)
COUNTS = ("failed", "refused", "judge", "judge_unclear", "invalid_calls")
"""Shown where a result has them."""
FAULTS = ("failed", "refused", "invalid_calls")
"""Shown where a result has some."""
AVERAGES = {"macro": "mean of sets", "questions": "mean of questions"}


def scores_table(
    results: Sequence[dict[str, Any]], average: dict[str, dict[str, Any]] | None = None
) -> str:
    """One line per data set and method, then the averages; `-` where a score is not defined.

    `ceiling` is the share of questions whose answer is in the corpus at all. `failed` is the number
    of questions of which a search or request failed, `refused` of those that the server refused,
    `judge_unclear` of replies of the judge that cannot be read: all count as wrong.
    """
    table = Table(box=None, pad_edge=False)
    counts = [name for name in COUNTS if any(_counts(scores, name) for scores in results)]
    for name in ("dataset", "method", "n", "k", "em", "95 %", "ceiling", *COLUMNS, *counts):
        table.add_column(name, justify="left" if name in ("dataset", "method") else "right")
    for scores in results:
        fixed = [Text(str(scores[name])) for name in ("dataset", "method", "n", "k")]
        ceiling = (scores.get("ceiling") or {}).get("answer_in_corpus")
        row = [_number(scores["em"]), _interval(scores), _number(ceiling)]
        row += [_number(scores.get(name)) for name in (*COLUMNS, *counts)]
        table.add_row(*fixed, *row)
    for name, scores in (average or {}).items():
        row = [_number(scores["em"]), _interval(scores), "-"]
        table.add_row(
            AVERAGES[name], "", "", "", *row, *(_number(scores.get(column)) for column in COLUMNS)
        )
    return _text(table)


def _counts(scores: dict[str, Any], name: str) -> bool:
    """True if the count is shown: a result has it, and where it counts faults, some."""
    return bool(scores.get(name)) if name in FAULTS else name in scores


def audit_table(rows: Sequence[dict[str, Any]]) -> str:
    """One line per data set: what the corpus holds, and what one search finds at each k, in per
    cent.
    """
    table = Table(box=None, pad_edge=False)
    ks = [found["k"] for found in rows[0]["search"]] if rows else []
    searched = [(name, k) for name in ("answer", "gold") for k in ks]
    for name in (
        "dataset",
        "n",
        "answer in corpus %",
        "gold in corpus %",
        *(f"{name} in top {k} %" for name, k in searched),
    ):
        table.add_column(name, justify="left" if name == "dataset" else "right")
    for row in rows:
        reach = {
            (name, found["k"]): found[key]
            for found in row["search"]
            for name, key in (("answer", "answer_in_retrieved"), ("gold", "gold_recall"))
        }
        shares = [
            row["answer_in_corpus"],
            row["gold_in_corpus"],
            *(reach[name] for name in searched),
        ]
        table.add_row(
            Text(row["dataset"]),
            str(row["n"]),
            *("-" if x is None else f"{100 * x:.1f}" for x in shares),
        )
    return _text(table)


def _text(table: Table) -> str:
    buffer = io.StringIO()
    Console(file=buffer, width=240, no_color=True).print(table)
    return "\n".join(line.rstrip() for line in buffer.getvalue().split("\n"))


def _interval(scores: dict[str, Any]) -> str:
    low, high = scores.get("em_low"), scores.get("em_high")
    return "-" if low is None or high is None else f"{low:.3f}-{high:.3f}"


def _number(value: float | None) -> str:
    if isinstance(value, int):
        return str(value)
    return "-" if value is None else f"{value:.3f}"
