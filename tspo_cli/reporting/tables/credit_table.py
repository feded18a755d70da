"""A comparison of algorithms on recorded rollouts as tables and as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tspo_cli.console import counted
from tspo_cli.credit.group import GROUP_CLASSES
from tspo_cli.credit.laboratory.comparison import ROLES, Comparison
from tspo_cli.reporting.figure import check_figure_path, harm_told, load_pyplot, save_figure
from tspo_cli.reporting.rendering.render import render
from tspo_cli.reporting.rendering.table import Column, Format, Table, cells

_SHORT_CLASSES = ("all correct", "mixed", "near-miss", "all miss")


def comparison_text(comparison: Comparison, width: int | None = None) -> str:
    """Five tables: groups learnt from, mean advantage by what a turn did and by its number,
    dependence on the number of turns, opposite signs.
    """
    record = comparison.record()
    arms = record["algorithms"]
    shares = record["group_classes"]
    first, last = record["steps"]
    parts = [
        f"{f'Step {first}' if first == last else f'Steps {first} to {last}'}: "
        f"{counted(record['groups'], 'group')}, "
        f"{counted(record['trajectories'], 'rollout')}, "
        f"{counted(record['turns'], 'turn')}{_shared(record)}. Groups: "
        + ", ".join(f"{100 * shares[name]:.1f} % {name}" for name in GROUP_CLASSES)
        + ".",
        "Groups that an algorithm learns from (some advantage is not 0), in % of all and of each "
        "class; turns with a "
        "positive and a negative advantage in %; mean size of the advantage over all turns",
        _table(
            ["algorithm", "all groups", *_SHORT_CLASSES, "turns +", "turns -", "mean |A|"],
            [[name, *_learning(arm)] for name, arm in arms.items()],
            width,
        ),
        "Mean advantage by what the turn did",
        _means_table(arms, "by_role", _roles(arms), width),
        "Mean advantage by the number of the turn",
        _means_table(arms, "by_turn", list(_first(arms)["by_turn"]), width),
    ]
    parts += _turn_counts(arms, width)
    if len(arms) > 1:
        parts += [
            "Turns in % on which two algorithms have opposite signs (columns: numbers of the rows)",
            _opposite_table(record, list(arms), width),
        ]
        parts += _worst(record)
    return "\n\n".join(parts)


def _shared(record: dict[str, Any]) -> str:
    count = record["shared_turns"]
    return f" ({count} of them shared with another rollout)" if count else ""


def draw_comparison(comparison: Comparison, path: Path) -> None:
    """Write the figure (SVG, PNG or PDF): groups learnt from, mean advantage by role, opposite
    signs.

    Raises:
        UsageError: an unknown ending.
    """
    check_figure_path(path)
    pyplot = load_pyplot()
    record = comparison.record()
    arms = record["algorithms"]
    names = list(arms)
    height = 1.6 + 0.32 * len(names)
    figure, (left, middle, right) = pyplot.subplots(
        1, 3, figsize=(15, max(3.4, height)), width_ratios=(1, 1.5, 1), layout="constrained"
    )
    start = [0.0] * len(names)
    for index, (name, label) in enumerate(zip(GROUP_CLASSES, _SHORT_CLASSES, strict=True)):
        share = record["group_classes"][name]
        part = [100 * share * (arms[arm]["learns_from_class"][name] or 0.0) for arm in names]
        left.barh(names, part, left=start, label=label, color=f"C{index}")
        start = [before + more for before, more in zip(start, part, strict=True)]
    left.invert_yaxis()
    left.set_xlim(0, 100)
    left.set_xlabel("% of groups learnt from")
    left.legend(fontsize=8, frameon=False)
    roles = _roles(arms)
    values = [[_cell(arms[arm]["by_role"].get(role)) for role in roles] for arm in names]
    _heat(middle, values, roles, names, "mean advantage", "{:+.2f}", "RdBu", symmetric=True)
    _heat(
        right,
        _opposite(record, names),
        names,
        names,
        "turns with opposite signs (%)",
        "{:.1f}",
        "Purples",
    )
    with harm_told(path):
        save_figure(figure, path)
    pyplot.close(figure)


def _heat(
    axes: Any,
    values: Sequence[Sequence[float]],
    columns: Sequence[str],
    rows: Sequence[str],
    title: str,
    form: str,
    colors: str,
    *,
    symmetric: bool = False,
) -> None:
    top = max((abs(value) for row in values for value in row), default=0.0) or 1.0
    axes.imshow(values, cmap=colors, vmin=-top if symmetric else 0.0, vmax=top, aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=35, ha="right", fontsize=8)
    axes.set_yticks(range(len(rows)), rows, fontsize=8)
    axes.set_title(title, fontsize=10)
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            color = "white" if abs(value) > 0.6 * top else "black"
            axes.text(x, y, form.format(value), ha="center", va="center", fontsize=7, color=color)


def _learning(arm: dict[str, Any]) -> list[str]:
    classes = [arm["learns_from_class"][name] for name in GROUP_CLASSES]
    every = arm["advantages"]
    return [
        *(
            "-" if share is None else f"{100 * share:.1f}"
            for share in (arm["learns_from"], *classes)
        ),
        f"{100 * every['positive']:.1f}",
        f"{100 * every['negative']:.1f}",
        f"{every['mean_size']:.3f}",
    ]


def _turn_counts(arms: dict[str, Any], width: int | None) -> list[str]:
    """Whether rollouts of equal outcome are paid for the number of their turns."""
    effects = {name: arm["turn_count"] for name, arm in arms.items()}
    first = next(iter(effects.values()))
    if first is None:
        return ["No rollouts of a question have the same outcome and different numbers of turns."]
    rows = [
        [
            name,
            f"{effect['slope'] + 0.0:+.3f}" if effect["slope"] else "0",
            f"{effect['correlation'] + 0.0:+.2f}" if effect["slope"] else "0",
            f"{effect['p_value']:.3f}",
        ]
        for name, effect in effects.items()
    ]
    return [
        "Change of a rollout's mean advantage for each further turn where the outcome is the same "
        f"({counted(first['rollouts'], 'rollout')} of a question with the same outcome); "
        f"correlation; p of "
        "a permutation within these",
        _table(["algorithm", "per turn", "correlation", "p"], rows, width),
    ]


def _means_table(arms: dict[str, Any], by: str, kinds: Sequence[str], width: int | None) -> str:
    """The mean advantage of every kind of turn, a row for each algorithm, below their counts."""
    counts = [str(_first(arms)[by][kind]["turns"]) for kind in kinds]
    rows = [[name, *(_mean(arm[by][kind]) for kind in kinds)] for name, arm in arms.items()]
    return _table(["algorithm", *kinds], [["(turns)", *counts], *rows], width)


def _first(arms: dict[str, Any]) -> dict[str, Any]:
    return next(iter(arms.values()))


def _roles(arms: dict[str, Any]) -> list[str]:
    return [role for role in ROLES if role in _first(arms)["by_role"]]


def _mean(group: dict[str, Any]) -> str:
    return f"{round(group['mean'], 3) + 0.0:+.3f}" if group["mean_size"] else "0"


def _cell(group: dict[str, Any] | None) -> float:
    return 0.0 if group is None else group["mean"]


def _opposite(record: dict[str, Any], names: Sequence[str]) -> list[list[float]]:
    known = {
        (pair["first"], pair["second"]): 100 * pair["opposite"] for pair in record["disagreements"]
    }
    return [
        [known.get((row, column), known.get((column, row), 0.0)) for column in names]
        for row in names
    ]


def _opposite_table(record: dict[str, Any], names: Sequence[str], width: int | None) -> str:
    values = _opposite(record, names)
    rows = [
        [
            f"{row + 1} {name}",
            *(
                "" if row == column else f"{values[row][column]:.1f}"
                for column in range(len(names))
            ),
        ]
        for row, name in enumerate(names)
    ]
    return _table(["algorithm", *(str(row + 1) for row in range(len(names)))], rows, width)


def _worst(record: dict[str, Any]) -> list[str]:
    """Where the pair that differs most in sign does so."""
    worst = max(record["disagreements"], key=lambda pair: pair["opposite"])
    if not worst["opposite"]:
        return ["No two algorithms have opposite signs on any turn."]
    roles = sorted(worst["opposite_by_role"].items(), key=lambda item: -item[1])
    return [
        f"Most: {worst['first']} and {worst['second']}, at "
        + ", ".join(f"{role} ({count})" for role, count in roles)
    ]


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]], width: int | None) -> str:
    columns = tuple(Column(head, numeric=index > 0) for index, head in enumerate(heads))
    table = Table("credit", "Credit", columns, tuple(map(cells, rows)), [])
    return render([table], Format.table, width=width)
