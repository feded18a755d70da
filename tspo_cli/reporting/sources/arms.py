"""Arms of a comparison: runs that differ in nothing but the seed, under a name that tells the arms
apart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tspo_cli import runs
from tspo_cli.errors import MissingResourceError
from tspo_cli.reporting.sources.overview import flat
from tspo_cli.reporting.sources.run_view import RunView

NEUTRAL = ("seed", "checkpoint", "track", "eval", "train.keep_rollouts", "train.threads")
"""Keys, or their first parts, that make no other arm: repeats, and what is written or scored on the
way.
"""
_INDEX = ("retriever.index", "retriever.url")


@dataclass(frozen=True, slots=True)
class Arm:
    """One row of a comparison; `views` are its seeds, in the order of the runs."""

    label: str
    views: tuple[RunView, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """What the arm may be called: its label, its algorithm or method, and its runs."""
        return (self.label, self.views[0].algorithm, *(view.name for view in self.views))

    @property
    def is_evaluation(self) -> bool:
        """True for a method of `tspo eval`, which was not trained here."""
        return self.views[0].is_evaluation


def group_arms(views: Sequence[RunView], *, ignore: Sequence[str] = ()) -> list[Arm]:
    """Runs with equal settings but for the seed (and keys in `ignore`) as arms, in the order of
    their first runs.

    Evaluations of one method and model are one arm too, whatever their data sets and the indexes of
    these. Models that one arm trained with several seeds are the seeds of its evaluation. An arm is
    called by its algorithm or method; where several arms share that, the settings that differ are
    added.
    """
    told = [
        _Told(view, _settings(view, (*NEUTRAL, *ignore)), _policy(view, (*NEUTRAL, *ignore)))
        for view in views
    ]
    groups = [
        part for group in _grouped(told, with_index=False) for part in _without_repeats(group)
    ]
    labels = _labels(groups)
    order = {view.name: place for place, view in enumerate(views)}
    arms = [
        Arm(label, tuple(one.view for one in group))
        for label, group in zip(labels, groups, strict=True)
    ]
    return sorted(arms, key=lambda arm: order[arm.views[0].name])


@dataclass(frozen=True, slots=True)
class _Told:
    """A view, the settings that tell arms apart, and for an evaluation the policy that answered."""

    view: RunView
    settings: dict[str, Any]
    policy: str


def _grouped(told: Sequence[_Told], *, with_index: bool) -> list[list[_Told]]:
    groups: dict[str, list[_Told]] = {}
    for one in told:
        own = one.settings
        if one.view.is_evaluation and not with_index:
            own = {key: value for key, value in own.items() if key not in _INDEX}
        key = json.dumps([one.view.method, one.policy, own], sort_keys=True, default=str)
        groups.setdefault(key, []).append(one)
    return list(groups.values())


def _without_repeats(group: list[_Told]) -> list[list[_Told]]:
    """`group`, or its parts where one seed has answered a data set twice: then the index is what
    differs.
    """
    if not _repeats(group):
        return [group]
    parts = _grouped(group, with_index=True)
    return [
        own for part in parts for own in ([[one] for one in part] if _repeats(part) else [part])
    ]


def _repeats(group: Sequence[_Told]) -> bool:
    seen = [
        (one.view.setting("seed"), one.view.model, dataset)
        for one in group
        for dataset in _datasets(one.view) or [""]
    ]
    return len(seen) > len(set(seen))


def _datasets(view: RunView) -> set[str]:
    return {str(scores.get("dataset")) for _, scores in view.evaluations()}


def _labels(groups: Sequence[Sequence[_Told]]) -> list[str]:
    by_name: dict[str, list[int]] = {}
    for place, group in enumerate(groups):
        by_name.setdefault(group[0].view.algorithm, []).append(place)
    labels = [""] * len(groups)
    for name, places in by_name.items():
        firsts = [groups[place][0] for place in places]
        keys = differing([one.settings for one in firsts])
        models = len({one.policy for one in firsts}) > 1
        for place, one in zip(places, firsts, strict=True):
            extra = [_model_name(one.view)] if models else []
            extra += [f"{_leaf(key, keys)}={_short(one.settings.get(key))}" for key in keys]
            labels[place] = f"{name} ({', '.join(extra)})" if extra else name
    return [
        label if labels.count(label) == 1 else f"{label} [{group[0].view.name}]"
        for label, group in zip(labels, groups, strict=True)
    ]


def arm_settings(arm: Arm) -> dict[str, Any]:
    """The dotted settings of an arm, without those that make no arm."""
    return _settings(arm.views[0], NEUTRAL)


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys on which these settings are not all equal."""
    keys = dict.fromkeys(key for one in settings for key in one)
    return [
        key for key in keys if len({json.dumps(one.get(key), default=str) for one in settings}) > 1
    ]


def find_arm(arms: Sequence[Arm], name: str) -> Arm:
    """The arm that `name` means: a label, an algorithm or method, or a run of it.

    Raises:
        MissingResourceError: no arm, or several, have that name.
    """
    by_label = [
        arm for arm in arms if arm.label == name or any(view.name == name for view in arm.views)
    ]
    found = by_label or [arm for arm in arms if name in arm.names]
    if len(found) == 1:
        return found[0]
    known = list(dict.fromkeys(each for arm in arms for each in arm.names))
    if not found:
        raise MissingResourceError(
            f"--baseline {name}: no evaluated run or algorithm of that name; there are: "
            f"{', '.join(known) or 'none'}"
        )
    raise MissingResourceError(
        f"--baseline {name}: several have it: {', '.join(arm.label for arm in found)}"
    )


def _settings(view: RunView, left_out: Sequence[str]) -> dict[str, Any]:
    unused = (*left_out, "model.path") if view.is_evaluation else left_out
    return {key: value for key, value in flat(view.config).items() if not _among(key, unused)}


def _policy(view: RunView, left_out: Sequence[str]) -> str:
    """What answered an evaluation: the settings that trained it where they are known, else where it
    lies.
    """
    parent = Path(view.model).parent
    if not view.model or not runs.is_run(parent):
        return view.model
    trained = flat(runs.read_json(parent / runs.CONFIG_NAME))
    return json.dumps(
        {key: value for key, value in trained.items() if not _among(key, left_out)}, sort_keys=True
    )


def _model_name(view: RunView) -> str:
    path = Path(view.model)
    return path.parent.name if path.name == runs.MODEL_NAME else path.name


def _among(key: str, names: Sequence[str]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)


def _leaf(key: str, among: Sequence[str]) -> str:
    leaf = key.rpartition(".")[2]
    return key if sum(one.rpartition(".")[2] == leaf for one in among) > 1 else leaf


def _short(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else f"…{text[-39:]}"
