"""The choice of trajectories: which source, which questions, which classes, and the pairs of two
runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tspo_cli.console import counted
from tspo_cli.errors import MissingResourceError, UsageError
from tspo_cli.reporting.sources.run_view import RunView
from tspo_cli.reporting.sources.trajectories import Source, sources
from tspo_cli.rollout.trajectory import INVALID


def choose_source(
    view: RunView, *, step: int | None, evaluation: bool, dataset: str | None
) -> Source:
    """The rollouts of a step, or with `evaluation` or `dataset` the evaluated items; the last ones
    unless told.

    A run without rollouts (supervised) shows its evaluated items.

    Raises:
        MissingResourceError: nothing was kept there; the message says what was.
        UsageError: several data sets and none named.
    """
    kept = sources(view)
    if not kept:
        raise MissingResourceError(
            f"{view.path}: no trajectories yet: a step of RL keeps its rollouts, an evaluation "
            "during training (eval.data) its items; those of tspo eval lie in its --out"
        )
    wants_items = (
        evaluation or dataset is not None or all(source.dataset is not None for source in kept)
    )
    fitting = [source for source in kept if (source.dataset is not None) == wants_items]
    if dataset is not None:
        fitting = [source for source in fitting if source.dataset == dataset]
    if not fitting:
        what = (
            f"evaluation of {dataset}"
            if dataset
            else "evaluated items"
            if wants_items
            else "rollouts"
        )
        elsewhere = "; items of tspo eval: tspo inspect DIR, its --out" if wants_items else ""
        raise MissingResourceError(
            f"{view.path}: no {what} kept; it has {_listed(kept)}{elsewhere}"
        )
    step = max(source.step for source in fitting) if step is None else step
    at_step = [source for source in fitting if source.step == step]
    if not at_step:
        steps = ", ".join(str(number) for number in sorted({source.step for source in fitting}))
        raise MissingResourceError(f"{view.path}: nothing kept of step {step}; kept steps: {steps}")
    if len(at_step) > 1:
        names = ", ".join(str(source.dataset) for source in at_step)
        raise UsageError(
            f"step {step} was evaluated on several data sets; choose one with --dataset: {names}"
        )
    return at_step[0]


def _listed(kept: Sequence[Source]) -> str:
    names = dict.fromkeys(
        "rollouts" if source.dataset is None else f"items of {source.dataset}" for source in kept
    )
    return ", ".join(names)


def select(
    groups: Sequence[dict[str, Any]],
    *,
    number: int | None = None,
    question: str | None = None,
    name: str | None = None,
    invalid: bool = False,
    find: str | None = None,
) -> list[dict[str, Any]]:
    """The group at place `number` (from 1), those of a question id, and of them those of a class.

    `question` is an id, or data set/id where several data sets share the id. `name` is a class of
    groups (these are kept whole) or of trajectories (the others are left out of their groups).
    `invalid` keeps the trajectories with an invalid or truncated turn; `find` the groups with these
    words in question, gold answers, answers or queries.

    Raises:
        MissingResourceError: there is no such group, question or class.
        UsageError: `question` means questions of several data sets.
    """
    chosen = list(groups)
    if number is not None:
        if not 1 <= number <= len(chosen):
            raise MissingResourceError(f"--group {number}: there are groups 1 to {len(chosen)}")
        chosen = [chosen[number - 1]]
    if question is not None:
        chosen = _of_question(chosen, question)
    if find is not None:
        chosen = [group for group in chosen if _has_words(group, find)]
        if not chosen:
            raise MissingResourceError(
                f"--find {find}: no question, answer or query here has these words"
            )
    if name is not None:
        chosen = _of_class(chosen, name)
    if invalid:
        chosen = _of_trajectories(chosen, _is_invalid)
        if not chosen:
            raise MissingResourceError(
                "--invalid: no trajectory here has an invalid or truncated turn"
            )
    return chosen


def _is_invalid(trajectory: dict[str, Any]) -> bool:
    return any(turn["kind"] in INVALID for turn in trajectory["turns"])


def _has_words(group: dict[str, Any], words: str) -> bool:
    texts = [group["question"], group_label(group), *group["golden_answers"]]
    for trajectory in group["trajectories"]:
        texts += [
            trajectory.get("answer") or "",
            *(turn.get("query") or "" for turn in trajectory["turns"]),
        ]
    text = "\n".join(texts).casefold()
    return all(word in text for word in words.casefold().split())


def _of_trajectories(
    groups: Sequence[dict[str, Any]], keep: Callable[[dict[str, Any]], bool]
) -> list[dict[str, Any]]:
    """Groups with only the trajectories that `keep` wants; groups without any are left out."""
    parts = [
        group
        | {"trajectories": [trajectory for trajectory in group["trajectories"] if keep(trajectory)]}
        for group in groups
    ]
    return [group for group in parts if group["trajectories"]]


def _of_question(groups: Sequence[dict[str, Any]], question: str) -> list[dict[str, Any]]:
    found = [group for group in groups if question in (str(group["group"][1]), group_label(group))]
    labels = sorted({group_label(group) for group in found})
    if not found:
        some = ", ".join(group_label(group) for group in groups[:5])
        raise MissingResourceError(
            f"--question {question}: not among these {counted(len(groups), 'group')} ({some}, ...)"
        )
    if len(labels) > 1:
        raise UsageError(
            f"--question {question}: several data sets have it; write one of {', '.join(labels)}"
        )
    return found


def _of_class(groups: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    whole = [group for group in groups if group.get("group_class") == name]
    if whole:
        return whole
    found = _of_trajectories(groups, lambda trajectory: trajectory.get("class") == name)
    if not found:
        known = {str(group.get("group_class")) for group in groups if group.get("group_class")}
        known |= {
            str(trajectory.get("class")) for group in groups for trajectory in group["trajectories"]
        }
        steps = sorted({group["step"] for group in groups if "step" in group})
        where = f"none in step {steps[0]}" if len(steps) == 1 else "none here"
        raise MissingResourceError(
            f"--class {name}: {where}; there are: {', '.join(sorted(known)) or 'none'}; take one "
            "of them, or name another step with --step"
        )
    return found


def group_label(group: dict[str, Any]) -> str:
    """data set/question id."""
    return f"{group['group'][0]}/{group['group'][1]}"


@dataclass(frozen=True, slots=True)
class Pair:
    """One question that two runs answered, with the first trajectory of each."""

    label: str
    question: str
    golds: list[str]
    first: dict[str, Any]
    second: dict[str, Any]

    @property
    def outcome(self) -> str:
        """both right, only the first, only the second, or both wrong."""
        first, second = (
            bool(trajectory.get("outcome")) for trajectory in (self.first, self.second)
        )
        return {
            (True, True): "both",
            (True, False): "first",
            (False, True): "second",
            (False, False): "none",
        }[first, second]


OUTCOMES = ("both", "first", "second", "none")


def pairs(first: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]]) -> list[Pair]:
    """The questions that both have, in the order of `first`.

    Raises:
        MissingResourceError: they share no question.
    """
    others = {
        (group_label(group), group["question"]): group
        for group in reversed(second)
        if group["trajectories"]
    }
    found = [
        Pair(
            label,
            group["question"],
            group["golden_answers"],
            group["trajectories"][0],
            other["trajectories"][0],
        )
        for group in first
        if group["trajectories"]
        and (other := others.get((label := group_label(group), group["question"]))) is not None
    ]
    if not found:
        raise MissingResourceError("--compare: the two have no question in common")
    return found
