"""Scores of arms on the items of their last evaluation, and paired comparisons between arms."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tspo_cli.errors import InvalidInputError
from tspo_cli.evaluation.paired_tests import Comparison, compare_sets, relative_gain
from tspo_cli.evaluation.statistics import Estimate, average, average_share, estimate_share
from tspo_cli.reporting.sources.arms import Arm
from tspo_cli.reporting.sources.overview import end_scores
from tspo_cli.reporting.sources.published import SETS
from tspo_cli.reporting.sources.run_view import RunView
from tspo_cli.reporting.sources.trajectories import read_records

Items = dict[str, dict[str, Any]]
Table = npt.NDArray[np.float64]
_ALWAYS = ("em", "f1", "sub_em")
_GOLD = ("gold_recall", "gold_precision", "question_gold_recall")


@dataclass(frozen=True, slots=True)
class ArmScores:
    """An arm's scores of one metric at its last evaluation.

    `items` are the evaluated items by data set, one mapping per seed; `macro` gives every data set
    of `averaged` the same weight, `weighted` every question of these. Both are None with a single
    data set, or where data sets have different seeds. `facts` are the recorded scores (size, k,
    digests, ...) by data set, one per seed.
    """

    arm: Arm
    items: dict[str, list[Items]]
    estimates: dict[str, Estimate]
    macro: Estimate | None
    weighted: Estimate | None
    facts: dict[str, list[dict[str, Any]]]

    @property
    def seeds(self) -> int:
        """How many runs stand behind the scores."""
        return max((one.seeds for one in self.estimates.values()), default=0)


@dataclass(frozen=True, slots=True)
class Gain:
    """The macro average minus a baseline's, over data sets that both have; `relative` is its share
    of the baseline's.

    The difference is None where the data sets have different seeds.
    """

    difference: Estimate | None
    baseline_mean: float
    relative: float | None


@dataclass(frozen=True, slots=True)
class Against:
    """Comparisons with one baseline, by arm label: of each data set, and of the average over them.

    `letter` stands for the baseline in the table.
    """

    letter: str
    baseline: str
    found: dict[str, dict[str, Comparison]] = field(default_factory=dict)
    gains: dict[str, Gain] = field(default_factory=dict)


def score_arms(arms: Sequence[Arm], metric: str = "em") -> list[ArmScores]:
    """The scores of all arms that were evaluated with their items kept and have this metric."""
    scored = [_score(arm, metric) for arm in arms]
    return [one for one in scored if one.estimates]


def _score(arm: Arm, metric: str) -> ArmScores:
    items: dict[str, list[Items]] = {}
    facts: dict[str, list[dict[str, Any]]] = {}
    for view in arm.views:
        recorded = end_scores(view)
        for dataset, own in end_items(view).items():
            items.setdefault(dataset, []).append(own)
            facts.setdefault(dataset, []).append(recorded[dataset])
    items = {name: items[name] for name in sorted(items, key=set_order)}
    tables = {
        name: score_table(own, metric, scored_ids(own, metric), f"{arm.label}, {name}")
        for name, own in items.items()
    }
    tables = {name: table for name, table in tables.items() if table and table[0]}
    sets = [tables[name] for name in averaged(tables)]
    together = len(sets) > 1 and len({len(table) for table in sets}) == 1
    return ArmScores(
        arm,
        items,
        {name: estimate_share(table) for name, table in tables.items()},
        average_share(sets) if together else None,
        average_share(sets, weighting="questions") if together else None,
        facts,
    )


def averaged(names: Iterable[str]) -> list[str]:
    """The data sets that an average is over: the benchmarks that papers average, or where there is
    none, all.
    """
    given = list(names)
    return [name for name in given if name in SETS] or given


def set_order(name: str) -> tuple[int, str]:
    """Sorts data sets as papers print them, others behind by name."""
    return (SETS.index(name), "") if name in SETS else (len(SETS), name)


def end_items(view: RunView) -> dict[str, Items]:
    """By data set the items of the last evaluation, by id and without their trajectories.

    Data sets whose items were not kept are absent.
    """
    steps = [step for step, _ in view.evaluations()]
    found: dict[str, Items] = {}
    for step, scores in view.evaluations():
        path = view.items_path(step, str(scores.get("dataset", "")))
        if step == max(steps) and path.exists():
            records = ({**item, "trajectory": None} for item in read_records(path))
            found[str(scores["dataset"])] = {str(item["id"]): item for item in records}
    return found


def scored_ids(items: Sequence[Items], metric: str) -> list[str]:
    """The questions that all of `items` answered and for which `metric` is defined, in the order of
    the first.

    As in `tspo eval`: recall and precision are of the questions whose list of gold passages is
    complete, or where no list is, of those with any; `answer_in_retrieved` is not of yes/no
    questions. EM, F1 and sub-EM are of every question.
    """
    ids = [one for one in items[0] if all(one in other for other in items[1:])]
    if metric in _ALWAYS:
        return ids
    defined = [one for one in ids if all(own[one].get(metric, 0) is not None for own in items)]
    if metric in _GOLD:
        complete = [one for one in ids if items[0][one].get("gold_kind") == "full"]
        return [one for one in defined if one in set(complete)] if complete else defined
    return defined


def score_table(
    items: Sequence[Items], metric: str, ids: Sequence[str], where: str
) -> list[list[float]]:
    """Scores [seeds, questions] of `metric`, in the order of `ids`.

    Raises:
        InvalidInputError: an item has no number there.
    """
    table = [[item.get(metric) for item in map(own.__getitem__, ids)] for own in items]
    if any(not isinstance(value, int | float) for row in table for value in row):
        raise InvalidInputError(
            f"{where}: not every item has a number under {metric!r}; choose another --metric"
        )
    return [[float(value) for value in row] for row in table]  # type: ignore[arg-type]


def compare_arms(
    scored: Sequence[ArmScores], baselines: Sequence[ArmScores], metric: str = "em"
) -> list[Against]:
    """Paired tests of every arm against each baseline on the questions that both answered, Holm
    over data sets.
    """
    return [
        _against(letter, base, [one for one in scored if one is not base], metric)
        for letter, base in zip("abcdefghijklmnoprstuvwxyz", baselines, strict=False)
    ]


def _against(letter: str, base: ArmScores, others: Sequence[ArmScores], metric: str) -> Against:
    against = Against(letter, base.arm.label)
    for one in others:
        pairs = _paired(one, base, metric)
        mine, theirs = ({name: pair[side] for name, pair in pairs.items()} for side in (0, 1))
        against.found[one.arm.label] = compare_sets(mine, theirs)
        if pairs:
            against.gains[one.arm.label] = _gain([pairs[name] for name in averaged(pairs)])
    return against


def _paired(one: ArmScores, base: ArmScores, metric: str) -> dict[str, tuple[Table, Table]]:
    """By data set the scores [seeds, questions] of both on the same questions."""
    pairs = {}
    for name in one.items:
        ids = (
            scored_ids([*one.items[name], *base.items[name]], metric) if name in base.items else []
        )
        if ids:
            mine, theirs = (
                np.array(score_table(side.items[name], metric, ids, side.arm.label))
                for side in (one, base)
            )
            pairs[name] = (mine, theirs)
    return pairs


def _gain(pairs: Sequence[tuple[Table, Table]]) -> Gain:
    mine, theirs = (float(np.mean([pair[side].mean() for pair in pairs])) for side in (0, 1))
    tables = [
        first - second
        if len(first) == len(second)
        else (first.mean(axis=0) - second.mean(axis=0))[None]
        for first, second in pairs
    ]
    same_seeds = len({len(table) for table in tables}) == 1
    return Gain(average(tables) if same_seeds else None, theirs, relative_gain(mine, theirs))
