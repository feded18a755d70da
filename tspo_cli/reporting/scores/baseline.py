"""Differences against a baseline run, item by item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tspo_cli.errors import MissingResourceError
from tspo_cli.evaluation.statistics.paired_tests import mcnemar_p
from tspo_cli.reporting.scores.end_rows import Row
from tspo_cli.reporting.sources.run_view import RunView
from tspo_cli.reporting.sources.trajectories import question_key
from tspo_cli.rollout.records import read_items


@dataclass(frozen=True, slots=True)
class Difference:
    """Exact match minus the baseline's on the `shared` items that both answered.

    `p` is the two-sided exact McNemar test: how surprising the split of the items that changed is
    if neither is better. It speaks of the questions, not of the randomness of training.
    """

    baseline: str
    shared: int
    delta_em: float
    p: float


def differences(
    rows: Sequence[Row], views: Sequence[RunView], name: str
) -> list[Difference | None]:
    """One entry per row: its difference from the baseline, None for the baseline itself and where
    nothing compares.

    `name` is a run, or an algorithm: then a row is compared with the run of its own seed, or the
    only run there is. Compared are equal data sets at equal steps; a supervised run is compared
    from its end, whatever its step.

    Raises:
        MissingResourceError: no row belongs to `name`.
    """
    candidates = [row for row in rows if row.run == name] or [
        row for row in rows if row.algorithm == name
    ]
    if not candidates:
        known = (
            ", ".join(dict.fromkeys([row.run for row in rows] + [row.algorithm for row in rows]))
            or "none"
        )
        raise MissingResourceError(
            f"--baseline {name}: no evaluated run or algorithm of that name; there are: {known}"
        )
    by_name = {view.name: view for view in views}
    baseline_runs = {row.run for row in candidates}
    return [
        None if row.run in baseline_runs else _difference(row, candidates, by_name) for row in rows
    ]


def _difference(
    row: Row, candidates: Sequence[Row], views: Mapping[str, RunView]
) -> Difference | None:
    other = _partner(row, candidates)
    if other is None:
        return None
    mine, theirs = exact_matches(views[row.run], row), exact_matches(views[other.run], other)
    pairs = [(em, theirs[item]) for item, em in mine.items() if item in theirs]
    if not pairs:
        return None
    won = sum(em and not base for em, base in pairs)
    lost = sum(base and not em for em, base in pairs)
    return Difference(other.run, len(pairs), (won - lost) / len(pairs), mcnemar_p(won, lost))


def _partner(row: Row, candidates: Sequence[Row]) -> Row | None:
    fitting = [
        other
        for other in candidates
        if (other.dataset, other.method) == (row.dataset, row.method)
        and (other.last if other.algorithm == "sft" else other.step == row.step)
    ]
    chosen = [other for other in fitting if other.seed == row.seed] if len(fitting) > 1 else fitting
    return chosen[0] if len(chosen) == 1 else None


def exact_matches(view: RunView, row: Row) -> dict[str, bool]:
    """Exact match by question of a row's evaluation; empty where its items were not kept."""
    path = view.items_path(row.step, row.dataset)
    return (
        {question_key(item): float(item["em"]) >= 0.5 for item in read_items(path)}
        if path.exists()
        else {}
    )
