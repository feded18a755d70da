"""Arms of a comparison: runs that differ only in their seed, under one label per arm."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tspo_cli import runs
from tspo_cli.config.old_records import read_record
from tspo_cli.config.sections.prompt_value import prompt_name
from tspo_cli.config.tables import flatten
from tspo_cli.errors import MissingResourceError
from tspo_cli.evaluation.signature import WITHOUT_EFFECT
from tspo_cli.reporting.sources.run_view import RunView
from tspo_cli.training.launch.same_experiment import INPUT_NAMES
from tspo_cli.training.launch.sweep_inputs import inputs_of_arm

NEUTRAL = ("seed", "checkpoint", "track", "eval", "train.keep_rollouts", "train.threads")
"""Keys, or their first parts, in which runs of one arm may differ: the seed, and what a run writes
or evaluates on the way.
"""
_OF_EVALUATIONS = (
    "rollout",
    "retriever.k",
    "retriever.index",
    "retriever.url",
    "retriever.search",
    "retriever.qdrant",
    "endpoint.api",
    "endpoint.extra",
    "model.max_context",
    "eval.temperature",
    "eval.answer",
    "eval.examples",
)
"""Keys, or their first parts, that can change an answer of `tspo eval`, which trains nothing."""
_INDEX = ("retriever.index", "retriever.url")
_LONGEST = 60
"""Characters of settings in a label. More hide the scores of a table: then the run is named."""
_INPUT = "inputs."
"""How the name of an input begins among settings."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One row of a comparison; `views` are its seeds, in the order of the runs."""

    label: str
    views: tuple[RunView, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names that mean this arm: its label, its algorithm or method, and its runs."""
        return (self.label, self.views[0].algorithm, *(view.name for view in self.views))

    @property
    def is_evaluation(self) -> bool:
        """True for a method of `tspo eval`, which was not trained here."""
        return self.views[0].is_evaluation


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A view with what assigns it to an arm: its settings, for an evaluation the policy, and the
    digests of what it, or the policy, was trained on.
    """

    view: RunView
    settings: dict[str, Any]
    policy: str
    inputs: dict[str, str]


def group_arms(views: Sequence[RunView], *, ignore: Sequence[str] = ()) -> list[Arm]:
    """Runs with equal settings, apart from the seed and the keys in `ignore`, as arms.

    Runs that began with other contents of the files that their settings name are several arms.
    Evaluations of one method and model are one arm, whatever their data sets and indexes. Models
    that one arm trained with several seeds are the seeds of its evaluation. The label of an arm is
    its algorithm or method. Where several arms share it, the settings that differ follow or, where
    these are many, the runs in brackets. Arms have the order of their first runs.
    """
    neutral = (*NEUTRAL, *ignore)
    candidates = [
        _Candidate(view, _settings(view, neutral), _policy(view, neutral), _inputs(view, ignore))
        for view in views
    ]
    groups = [
        part
        for group in _grouped(candidates, with_index=False)
        for same in _by_inputs(group)
        for part in _without_repeats(same)
    ]
    arms = [
        Arm(label, tuple(candidate.view for candidate in group))
        for label, group in zip(_labels(groups), groups, strict=True)
    ]
    order = {view.name: index for index, view in enumerate(views)}
    return sorted(arms, key=lambda arm: order[arm.views[0].name])


def _grouped(candidates: Sequence[_Candidate], *, with_index: bool) -> list[list[_Candidate]]:
    groups: dict[str, list[_Candidate]] = {}
    for candidate in candidates:
        settings = candidate.settings
        if candidate.view.is_evaluation and not with_index:
            settings = {key: value for key, value in settings.items() if key not in _INDEX}
        identity = [candidate.view.method, candidate.policy, settings]
        key = json.dumps(identity, sort_keys=True, default=str)
        groups.setdefault(key, []).append(candidate)
    return list(groups.values())


def _by_inputs(group: list[_Candidate]) -> list[list[_Candidate]]:
    """`group`, or its parts by the inputs of which it has several. One of which such an input is
    unknown is in a part of its own.
    """
    several = [
        kind
        for kind in INPUT_NAMES
        if len({found.inputs[kind] for found in group if kind in found.inputs}) > 1
    ]
    parts: dict[tuple[str, ...], list[_Candidate]] = {}
    for candidate in group:
        shown = {f"{_INPUT}{kind}": candidate.inputs.get(kind, "unknown") for kind in several}
        told = replace(candidate, settings=candidate.settings | shown)
        parts.setdefault(tuple(shown.values()), []).append(told)
    return list(parts.values())


def _without_repeats(group: list[_Candidate]) -> list[list[_Candidate]]:
    """`group`, or its parts by index where one seed answered a data set twice.

    A part in which a seed still answered a data set twice becomes one group per run.
    """
    if not _repeats(group):
        return [group]
    groups: list[list[_Candidate]] = []
    for part in _grouped(group, with_index=True):
        groups += [[candidate] for candidate in part] if _repeats(part) else [part]
    return groups


def _repeats(group: Sequence[_Candidate]) -> bool:
    answered = [
        (candidate.view.setting("seed"), candidate.view.model, dataset)
        for candidate in group
        for dataset in _datasets(candidate.view) or [""]
    ]
    return len(answered) > len(set(answered))


def _datasets(view: RunView) -> set[str]:
    return {str(scores.get("dataset")) for _, scores in view.evaluations}


def _labels(groups: Sequence[Sequence[_Candidate]]) -> list[str]:
    """One label per group: its algorithm or method, and what tells groups of that name apart, which
    is its runs where the settings that differ would be too long for one of these groups.
    """
    firsts = [group[0] for group in groups]
    by_name: dict[str, list[_Candidate]] = {}
    for first in firsts:
        by_name.setdefault(first.view.algorithm, []).append(first)
    differences = {
        name: differing([candidate.settings for candidate in candidates])
        for name, candidates in by_name.items()
    }
    details = []
    for first in firsts:
        name = first.view.algorithm
        keys = differences[name]
        extra = [f"{_leaf(key, keys)}={_short(key, _value(first, key))}" for key in keys]
        if len({candidate.policy for candidate in by_name[name]}) > 1:
            extra.insert(0, _model_name(first.view))
        details.append(f" ({', '.join(extra)})" if extra else "")
    names = [first.view.algorithm for first in firsts]
    too_long = {name for name, text in zip(names, details, strict=True) if len(text) > _LONGEST}
    labels = [
        name if name in too_long else name + text for name, text in zip(names, details, strict=True)
    ]
    return [
        label if labels.count(label) == 1 else f"{label} [{_runs_of(group)}]"
        for label, group in zip(labels, groups, strict=True)
    ]


def _runs_of(group: Sequence[_Candidate]) -> str:
    """Its first run, which no other group has, and how many more it has."""
    more = len(group) - 1
    return group[0].view.name + (f" and {more} more" if more else "")


def _value(candidate: _Candidate, key: str) -> Any:
    """A setting, or an input, also of an arm that has no other one of its kind beside it."""
    return candidate.settings.get(key, candidate.inputs.get(key.removeprefix(_INPUT)))


def arm_settings(arm: Arm) -> dict[str, Any]:
    """The dotted settings of an arm, without `NEUTRAL` ones."""
    return _settings(arm.views[0], NEUTRAL)


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """The keys on which these settings are not all equal."""
    keys = dict.fromkeys(key for table in settings for key in table)
    return [
        key
        for key in keys
        if len({json.dumps(table.get(key), default=str) for table in settings}) > 1
    ]


def find_arm(arms: Sequence[Arm], name: str) -> Arm:
    """The arm that `name` means: a label, an algorithm or method, or a run of it.

    Raises:
        MissingResourceError: no arm, or several, have that name.
    """
    by_label = [
        arm for arm in arms if arm.label == name or any(view.name == name for view in arm.views)
    ]
    matching = by_label or [arm for arm in arms if name in arm.names]
    if len(matching) == 1:
        return matching[0]
    if not matching:
        known = list(dict.fromkeys(known_name for arm in arms for known_name in arm.names))
        raise MissingResourceError(
            f"--baseline {name}: no evaluated run or algorithm of that name; there are: "
            f"{', '.join(known) or 'none'}"
        )
    raise MissingResourceError(
        f"--baseline {name}: several have it: {', '.join(arm.label for arm in matching)}; name one "
        "of them, or a run"
    )


def _settings(view: RunView, neutral: Sequence[str]) -> dict[str, Any]:
    settings = flatten(view.config)
    if not view.is_evaluation:
        return _without(settings, neutral)
    ignored = (
        *(name for name in neutral if name != "eval"),
        *(f"rollout.{key}" for key in WITHOUT_EFFECT),
    )
    others = _without(settings, _OF_EVALUATIONS)
    kept = {key: value for key, value in settings.items() if key not in others}
    # No examples are no setting: earlier evaluations have no such key.
    return {key: value for key, value in _without(kept, ignored).items() if value != ""}


def _policy(view: RunView, neutral: Sequence[str]) -> str:
    """The policy of an evaluation: the settings that trained it if known, else its directory."""
    parent = Path(view.model).parent
    if not view.model or not runs.is_run(parent):
        return view.model
    trained = flatten(read_record(parent / runs.CONFIG_NAME))
    return json.dumps(_without(trained, neutral), sort_keys=True)


def _inputs(view: RunView, ignore: Sequence[str]) -> dict[str, str]:
    trained = Path(view.model).parent if view.is_evaluation else view.path
    if view.is_evaluation and not (view.model and runs.is_run(trained)):
        return {}
    config = read_record(trained / runs.CONFIG_NAME) if view.is_evaluation else view.config
    return inputs_of_arm(trained, flatten(config), ignore)


def _model_name(view: RunView) -> str:
    path = Path(view.model)
    return path.parent.name if path.name == runs.MODEL_NAME else path.name


def _without(settings: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """`settings` without the keys, and the sections, in `names`."""
    return {
        key: value
        for key, value in settings.items()
        if not any(key == name or key.startswith(f"{name}.") for name in names)
    }


def _leaf(key: str, keys: Sequence[str]) -> str:
    """The last part of a dotted key; the whole key where another of `keys` ends the same."""
    leaf = key.rpartition(".")[2]
    return key if sum(other.rpartition(".")[2] == leaf for other in keys) > 1 else leaf


def _short(key: str, value: Any) -> str:
    if key == "rollout.prompt":
        return prompt_name(value)
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else f"…{text[-39:]}"
