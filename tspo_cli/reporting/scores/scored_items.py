"""Scores of arms on the items of their last evaluation, and paired comparisons between arms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from tspo_cli.errors import InvalidInputError
from tspo_cli.evaluation.item_record import WRONG_WHERE_NONE
from tspo_cli.evaluation.statistics.estimates import (
    Estimate,
    average,
    average_share,
    estimate,
    estimate_share,
)
from tspo_cli.evaluation.statistics.paired_tests import Comparison, compare_sets, relative_gain
from tspo_cli.reporting.rendering.metric import Metric
from tspo_cli.reporting.sources.arms import Arm
from tspo_cli.reporting.sources.published import SETS
from tspo_cli.reporting.sources.run_view import RunView
from tspo_cli.reporting.sources.trajectories import question_key
from tspo_cli.rollout.records import read_items

Items = dict[str, dict[str, Any]]
Table = npt.NDArray[np.float64]
_ALWAYS = ("em", "f1", "sub_em", *WRONG_WHERE_NONE)
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
        """The number of runs that the scores are averaged over."""
        return max((estimate.seeds for estimate in self.estimates.values()), default=0)


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
class BaselineComparison:
    """Comparisons of all other arms with one baseline, by arm label.

    `by_dataset` has the paired test of each data set, `gains` the difference of the averages.
    `letter` marks this baseline in the table.
    """

    letter: str
    baseline: str
    by_dataset: dict[str, dict[str, Comparison]] = field(default_factory=dict)
    gains: dict[str, Gain] = field(default_factory=dict)


def score_arms(arms: Sequence[Arm], metric: str = "em") -> list[ArmScores]:
    """The scores of all arms that were evaluated with their items kept and have this metric."""
    scored = [_score_arm(arm, metric) for arm in arms]
    return [scores for scores in scored if scores.estimates]


def _score_arm(arm: Arm, metric: str) -> ArmScores:
    items: dict[str, list[Items]] = {}
    facts: dict[str, list[dict[str, Any]]] = {}
    for view in arm.views:
        for dataset, seed_items in end_items(view).items():
            items.setdefault(dataset, []).append(seed_items)
            facts.setdefault(dataset, []).append(view.last_scores[dataset])
    items = {name: items[name] for name in sorted(items, key=set_order)}
    tables = {
        name: score_table(seeds, metric, scored_ids(seeds, metric), f"{arm.label}, {name}")
        for name, seeds in items.items()
    }
    tables = {name: table for name, table in tables.items() if table and table[0]}
    sets = [tables[name] for name in averaged(tables)]
    of_one, of_several = (
        (estimate, average) if Metric(metric).is_count else (estimate_share, average_share)
    )
    same_seeds = len(sets) > 1 and len({len(table) for table in sets}) == 1
    return ArmScores(
        arm,
        items,
        {name: of_one(table) for name, table in tables.items()},
        of_several(sets) if same_seeds else None,
        of_several(sets, weighting="questions") if same_seeds else None,
        facts,
    )


def averaged(names: Iterable[str]) -> list[str]:
    """The data sets that the average is over: the benchmarks that papers average; all data sets
    where there is no benchmark.
    """
    datasets = list(names)
    return [name for name in datasets if name in SETS] or datasets


def set_order(name: str) -> tuple[int, str]:
    """The sort key of a data set: benchmarks in the order of papers, then others by name."""
    return (SETS.index(name), "") if name in SETS else (len(SETS), name)


def end_items(view: RunView) -> dict[str, Items]:
    """The items of the last evaluation by data set and question, without their trajectories.

    Data sets whose items were not kept are absent.
    """
    by_dataset: dict[str, Items] = {}
    for dataset, scores in view.last_scores.items():
        path = view.items_path(view.last_step, dataset)
        if path.exists():
            records = ({**item, "trajectory": None} for item in read_items(path, scores))
            by_dataset[dataset] = {question_key(item): item for item in records}
    return by_dataset


def shared_ids(items: Sequence[Items]) -> list[str]:
    """The questions that all of `items` answered, in the order of the first."""
    return [key for key in items[0] if all(key in seed_items for seed_items in items[1:])]


def scored_ids(items: Sequence[Items], metric: str) -> list[str]:
    """The questions that all of `items` answered and for which `metric` is defined, in the order of
    the first.

    As in `tspo eval`: recall and precision are of the questions whose list of gold passages is
    complete, or where no list is, of those with any; `answer_in_retrieved` is not of yes/no
    questions. EM, F1, sub-EM and a judge's verdicts are of every question.
    """
    ids = shared_ids(items)
    if metric in _ALWAYS:
        return ids
    defined = [
        key
        for key in ids
        if all(seed_items[key].get(metric, 0) is not None for seed_items in items)
    ]
    if metric in _GOLD:
        complete = {key for key in ids if items[0][key].get("gold_kind") == "full"}
        return [key for key in defined if key in complete] if complete else defined
    return defined


def score_table(
    items: Sequence[Items], metric: str, ids: Sequence[str], where: str
) -> list[list[float]]:
    """Scores [seeds, questions] of `metric`, in the order of `ids`. A reply of a judge without a
    verdict is 0, as in `tspo eval`.

    Raises:
        InvalidInputError: an item has no number there, or one that no mean can be made of.
    """
    table = [[_score(seed_items[key], metric) for key in ids] for seed_items in items]
    if any(not isinstance(value, int | float) for row in table for value in row):
        raise InvalidInputError(
            f"{where}: not every item has a number under {metric!r}; choose another --metric"
        )
    if not all(abs(value) < 2**53 for row in table for value in row):  # also of NaN
        raise InvalidInputError(
            f"{where}: expected numbers below 2^53 under {metric!r}, which not every item has; "
            "evaluate again, or choose another --metric"
        )
    return [[float(value) for value in row] for row in table]


def _score(item: Mapping[str, Any], metric: str) -> Any:
    if metric in WRONG_WHERE_NONE and item.get(metric, 0) is None:
        return 0.0
    return item.get(metric)


def compare_arms(
    scored: Sequence[ArmScores], baselines: Sequence[ArmScores], metric: str = "em"
) -> list[BaselineComparison]:
    """Paired tests of every arm against each baseline on the questions that both answered, Holm
    over data sets.
    """
    return [
        _compare(letter, base, [scores for scores in scored if scores is not base], metric)
        for letter, base in zip("abcdefghijklmnoprstuvwxyz", baselines, strict=False)
    ]


def _compare(
    letter: str, base: ArmScores, others: Sequence[ArmScores], metric: str
) -> BaselineComparison:
    comparison = BaselineComparison(letter, base.arm.label)
    for scores in others:
        pairs = _paired_tables(scores, base, metric)
        label = scores.arm.label
        comparison.by_dataset[label] = compare_sets(
            {name: table for name, (table, _) in pairs.items()},
            {name: table for name, (_, table) in pairs.items()},
        )
        if pairs:
            comparison.gains[label] = _gain([pairs[name] for name in averaged(pairs)])
    return comparison


def _paired_tables(
    scores: ArmScores, base: ArmScores, metric: str
) -> dict[str, tuple[Table, Table]]:
    """The score tables [seeds, questions] of both arms on the questions that both answered, by data
    set.
    """
    pairs = {}
    for name in scores.items:
        if name not in base.items:
            continue
        ids = scored_ids([*scores.items[name], *base.items[name]], metric)
        if ids:
            pairs[name] = (
                np.array(score_table(scores.items[name], metric, ids, scores.arm.label)),
                np.array(score_table(base.items[name], metric, ids, base.arm.label)),
            )
    return pairs


def _gain(pairs: Sequence[tuple[Table, Table]]) -> Gain:
    mean = float(np.mean([table.mean() for table, _ in pairs]))
    base_mean = float(np.mean([base.mean() for _, base in pairs]))
    differences = [
        table - base if len(table) == len(base) else (table.mean(axis=0) - base.mean(axis=0))[None]
        for table, base in pairs
    ]
    same_seeds = len({len(difference) for difference in differences}) == 1
    return Gain(
        average(differences) if same_seeds else None, base_mean, relative_gain(mean, base_mean)
    )
