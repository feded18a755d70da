"""Trajectories as text for the terminal, turn by turn, and the choice of which ones."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from tspo_cli.errors import MissingResourceError, UsageError
from tspo_cli.reporting.groups import Source, sources
from tspo_cli.reporting.marks import marked, printable
from tspo_cli.reporting.views import RunView


def choose_source(view: RunView, *, step: int | None, evaluation: bool, dataset: str | None) -> Source:
    """The rollouts of a step, or with `evaluation` or `dataset` the evaluated items; the last ones unless told.

    A run without rollouts (supervised) shows its evaluated items.

    Raises:
        MissingResourceError: nothing was kept there; the message says what was.
        UsageError: several data sets and none named.
    """
    kept = sources(view)
    wants_items = evaluation or dataset is not None or all(source.dataset is not None for source in kept)
    fitting = [source for source in kept if (source.dataset is not None) == wants_items]
    if dataset is not None:
        fitting = [source for source in fitting if source.dataset == dataset]
    if not fitting:
        what = f"evaluation of {dataset}" if dataset else "evaluated items" if wants_items else "rollouts"
        raise MissingResourceError(f"{view.path}: no {what} kept; it has {_listed(kept)}")
    step = max(source.step for source in fitting) if step is None else step
    at_step = [source for source in fitting if source.step == step]
    if not at_step:
        steps = ", ".join(str(one) for one in sorted({source.step for source in fitting}))
        raise MissingResourceError(f"{view.path}: nothing kept of step {step}; kept steps: {steps}")
    if len(at_step) > 1:
        names = ", ".join(str(source.dataset) for source in at_step)
        raise UsageError(f"step {step} was evaluated on several data sets; choose one with --dataset: {names}")
    return at_step[0]


def _listed(kept: Sequence[Source]) -> str:
    names = dict.fromkeys("rollouts" if source.dataset is None else f"items of {source.dataset}" for source in kept)
    return ", ".join(names) or "no trajectories at all"


def select(
    groups: Sequence[dict[str, Any]], *, number: int | None = None, question: str | None = None, name: str | None = None
) -> list[dict[str, Any]]:
    """The group at place `number` (from 1), those of a question id, and of them those of a class.

    `question` is an id, or data set/id where several data sets share the id. `name` is a class of groups (these are
    kept whole) or of trajectories (the others are left out of their groups).

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
    return chosen if name is None else _of_class(chosen, name)


def _of_question(groups: Sequence[dict[str, Any]], question: str) -> list[dict[str, Any]]:
    found = [group for group in groups if question in (str(group["group"][1]), group_label(group))]
    labels = sorted({group_label(group) for group in found})
    if not found:
        some = ", ".join(group_label(group) for group in groups[:5])
        raise MissingResourceError(f"--question {question}: not among these {len(groups)} groups ({some}, ...)")
    if len(labels) > 1:
        raise UsageError(f"--question {question}: several data sets have it; write one of {', '.join(labels)}")
    return found


def _of_class(groups: Sequence[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    whole = [group for group in groups if group.get("group_class") == name]
    if whole:
        return whole
    parts = [
        group | {"trajectories": [one for one in group["trajectories"] if one.get("class") == name]} for group in groups
    ]
    found = [group for group in parts if group["trajectories"]]
    if not found:
        known = {str(group.get("group_class")) for group in groups if group.get("group_class")}
        known |= {str(one.get("class")) for group in groups for one in group["trajectories"]}
        raise MissingResourceError(f"--class {name}: none here; there are: {', '.join(sorted(known)) or 'none'}")
    return found


def group_label(group: dict[str, Any]) -> str:
    """data set/question id."""
    return f"{group['group'][0]}/{group['group'][1]}"


def transcript(groups: Sequence[dict[str, Any]], *, width: int = 100, color: bool = False) -> str:
    """The groups as text, gold answers marked (in colour, or between » and « without). Nothing in them is markup."""
    from rich.console import Console
    from rich.rule import Rule
    from rich.text import Text

    out = io.StringIO()
    terminal = Console(file=out, width=width, force_terminal=color, highlight=False, markup=False, emoji=False)
    for group in groups:
        terminal.print(Rule(Text(printable(group_label(group))), style="dim", align="left"))
        terminal.print(Text(printable(group["question"]), style="bold"))
        terminal.print(Text(printable(f"gold: {' | '.join(group['golden_answers'])}"), style="green"))
        if group.get("group_class"):
            terminal.print(Text(f"group: {group['group_class']}"))
        for trajectory in group["trajectories"]:
            terminal.print()
            for text in _lines(trajectory, group["golden_answers"], color):
                terminal.print(text)
        terminal.print()
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines()).strip("\n")


def _lines(trajectory: dict[str, Any], golds: Sequence[str], color: bool) -> list[Any]:
    from rich.padding import Padding
    from rich.text import Text

    outcome = trajectory.get("outcome")
    facts = [f"rollout {trajectory.get('sample', 0) + 1}", str(trajectory.get("class") or "")]
    facts += [f"outcome {outcome:g}"] if outcome is not None else []
    facts += ["search failed, not trained on"] if trajectory.get("failed") else []
    lines: list[Any] = [Text(" · ".join(filter(None, facts)), style="bold cyan")]
    for index, turn in enumerate(trajectory["turns"]):
        lines.append(Padding(_heading(trajectory, index), (0, 0, 0, 2)))
        lines.append(Padding(_marked(turn.get("text") or "", golds, color, "dim"), (0, 0, 0, 4)))
        if turn.get("search_error"):
            lines.append(Padding(Text(printable(f"search failed: {turn['search_error']}"), style="red"), (0, 0, 0, 4)))
        for passage in turn.get("passages") or []:
            text = Text(printable(f"[{passage['id']}] "), style="blue")
            text.append_text(_marked(" ".join(passage["contents"].split()), golds, color))
            lines.append(Padding(text, (0, 0, 0, 4)))
        if not turn.get("passages") and turn.get("feedback"):
            lines.append(Padding(_marked(turn["feedback"].strip(), golds, color), (0, 0, 0, 4)))
    answer = trajectory.get("answer")
    lines.append(Text(printable(f"  answer: {answer}") if answer is not None else "  no answer", style="bold"))
    return lines


def _heading(trajectory: dict[str, Any], index: int) -> Any:
    from rich.text import Text

    turn = trajectory["turns"][index]
    text = Text(f"turn {index + 1}: {turn['kind']}", style="bold")
    if trajectory.get("first_occurrence") == index + 1:
        text.append("  gold answer first occurs here", style="yellow")
    rewards, advantages = trajectory.get("turn_rewards") or [], trajectory.get("advantages") or []
    if index < len(rewards):
        text.append(f"  reward {rewards[index]:.2f}", style="not bold")
    if index < len(advantages):
        value = advantages[index]
        text.append(f"  advantage {value:+.2f}", style="green" if value > 0 else "red" if value < 0 else "not bold")
    return text


def _marked(value: str, golds: Sequence[str], color: bool, style: str = "") -> Any:
    from rich.text import Text

    text = Text()
    for index, piece in enumerate(marked(printable(value), golds)):
        gold = index % 2 == 1
        text.append(f"»{piece}«" if gold and not color else piece, style="black on yellow" if gold else style)
    return text
