"""A terminal table of evaluation scores."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from rich.cells import cell_len
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
SPARED = (
    *("observation_cut_share", "question_gold_recall", "answer_in_shown", "k", "ceiling"),
    *("gold_recall", "invalid_share", "answer_in_retrieved", "sub_em", "searches"),
    *("no_answer_share", "f1", "judge_unclear", "invalid_calls", "refused", "failed", "judge"),
)
"""What a narrow terminal does without, the first of them first."""
_LEAST = 8
"""Columns of a name at least; longer names are folded where they have to be."""
AVERAGES = {"macro": "mean of sets", "questions": "mean of questions"}


def scores_table(
    results: Sequence[dict[str, Any]],
    average: dict[str, dict[str, Any]] | None = None,
    *,
    width: int | None = None,
    rest: str = "--json",
) -> str:
    """One line per data set and method, then the averages; `-` where a score is not defined.

    `ceiling` is the share of questions whose answer is in the corpus at all. `failed` is the number
    of questions of which a search or request failed, `refused` of those that the server refused,
    `judge_unclear` of replies of the judge that cannot be read: all count as wrong. `width`: the
    columns of the terminal, into which the most important scores are fitted; a line below names the
    others, and `rest`, which has them.
    """
    counts = [name for name in COUNTS if any(_counts(scores, name) for scores in results)]
    names = ("dataset", "method", "n", "k", "em", "95 %", "ceiling", *COLUMNS, *counts)
    rows = []
    for scores in results:
        ceiling = (scores.get("ceiling") or {}).get("answer_in_corpus")
        fixed = [str(scores[name]) for name in ("dataset", "method", "n", "k")]
        row = [_number(scores["em"]), _interval(scores), _number(ceiling)]
        rows.append([*fixed, *row, *(_number(scores.get(name)) for name in (*COLUMNS, *counts))])
    for name, scores in (average or {}).items():
        row = [_number(scores["em"]), _interval(scores), "-"]
        row += [_number(scores.get(column)) for column in COLUMNS]
        rows.append([AVERAGES[name], "", "", "", *row, *("" for _ in counts)])
    return _fitted(dict.fromkeys(names, ()), rows, SPARED, width, rest)


def _counts(scores: dict[str, Any], name: str) -> bool:
    """True if the count is shown: a result has it, and where it counts faults, some."""
    return bool(scores.get(name)) if name in FAULTS else name in scores


def audit_table(rows: Sequence[dict[str, Any]], *, width: int | None = None) -> str:
    """One line per data set: what the corpus holds, and what one search finds at each k, in per
    cent. `width`: as for `scores_table`.
    """
    ks = [found["k"] for found in rows[0]["search"]] if rows else []
    searched = [(name, k) for name in ("answer", "gold") for k in ks]
    headings: dict[str, tuple[str, ...]] = {"dataset": (), "n": ()}
    for heading in (
        *(("answer in", "corpus %"), ("gold in", "corpus %")),
        *((f"{name} in", f"top {k} %") for name, k in searched),
    ):
        headings[" ".join(heading)] = heading
    lines = []
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
        lines.append(
            [row["dataset"], str(row["n"])]
            + ["-" if x is None else f"{100 * x:.1f}" for x in shares]
        )
    # The k that is spared first is neither the smallest, which most runs use, nor the largest.
    order = [*ks[1:-1], *ks[1:][-1:]]
    spared = [f"{name} in top {k} %" for k in order for name in ("gold", "answer")]
    spared += [f"gold in top {k} %" for k in ks[:1]] + ["gold in corpus %"]
    return _fitted(headings, lines, spared, width, "--json")


def _fitted(
    headings: Mapping[str, tuple[str, ...]],
    rows: Sequence[Sequence[str]],
    spared: Sequence[str],
    width: int | None,
    rest: str,
) -> str:
    """The table, without as many of the `spared` columns as do not fit into `width`, the first of
    them first. Names may be folded then, and numbers are never cut. `headings` has each column with
    the lines of its heading on a terminal, none where the name is one.
    """
    lines = {
        name: (name,) if width is None or not parts else parts for name, parts in headings.items()
    }
    cells = {name: [row[place] for row in rows] for place, name in enumerate(headings)}
    wide = {name: max(map(cell_len, (*lines[name], *cells[name]))) for name in headings}
    left_out: list[str] = []
    for name in spared:
        if width is None or sum(wide.values()) + 2 * (len(wide) - 1) <= width:
            break
        if wide.pop(name, None) is not None:
            left_out.append(name)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    least = {
        name: min(wide[name], _LEAST) if name in ("dataset", "method") else wide[name]
        for name in wide
    }
    for name in wide:
        left = name in ("dataset", "method")
        table.add_column(
            Text("\n".join(lines[name])),
            justify="left" if left else "right",
            vertical="bottom",
            overflow="fold",
            no_wrap=not left,
            min_width=least[name],
        )
    for place in range(len(rows)):
        table.add_row(*(Text(cells[name][place]) for name in wide))
    out = io.StringIO()
    widest, narrowest = (sum(parts.values()) + 2 * len(wide) for parts in (wide, least))
    Console(file=out, width=max(width or widest, narrowest), no_color=True).print(table)
    if left_out and width is not None:
        kept = [name for name in headings if name in left_out]
        note = f"not shown in {width} columns: {', '.join(kept)}; {rest} has them"
        Console(file=out, width=width, no_color=True, highlight=False).print(Text(note))
    return "\n".join(line.rstrip() for line in out.getvalue().split("\n"))


def _interval(scores: dict[str, Any]) -> str:
    low, high = scores.get("em_low"), scores.get("em_high")
    return "-" if low is None or high is None else f"{low:.3f}-{high:.3f}"


def _number(value: float | None) -> str:
    if isinstance(value, int):
        return str(value)
    return "-" if value is None else f"{value:.3f}"
