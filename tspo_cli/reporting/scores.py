"""A terminal table of evaluation scores."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

COLUMNS = (
    "em", "f1", "answer_in_retrieved", "gold_recall", "question_gold_recall", "searches", "invalid_share",
)  # fmt: skip


def scores_table(results: Sequence[dict[str, Any]]) -> str:
    """One line per data set and method; `-` where a score is not defined."""
    table = Table(box=None, pad_edge=False)
    for name in ("dataset", "method", "n", "k", *COLUMNS):
        table.add_column(name, justify="left" if name in ("dataset", "method") else "right")
    for scores in results:
        fixed = [Text(str(scores[name])) for name in ("dataset", "method", "n", "k")]
        table.add_row(*fixed, *(_number(scores[name]) for name in COLUMNS))
    buffer = io.StringIO()
    Console(file=buffer, width=160, no_color=True).print(table)
    return "\n".join(line.rstrip() for line in buffer.getvalue().splitlines())


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
