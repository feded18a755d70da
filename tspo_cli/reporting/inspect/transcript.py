"""Trajectories as text for the terminal, turn by turn, alone or two side by side."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from tspo_cli.console import counted
from tspo_cli.reporting.inspect.selection import Pair, group_label
from tspo_cli.reporting.rendering.cut_passages import is_unknown, passage_parts, shortened
from tspo_cli.reporting.rendering.marks import marked
from tspo_cli.text.printable import printable, printable_values

LONGEST_SHOWN = 2000
LONGEST_CUT = 300
"""Characters of a passage that the terminal shows: of what the model saw, and of what was cut."""


def transcript(groups: Sequence[dict[str, Any]], *, width: int = 100, color: bool = False) -> str:
    """The groups as text, gold answers marked (in colour, or between » and « without). Nothing in
    them is markup.
    """
    from rich.console import Console
    from rich.rule import Rule
    from rich.text import Text

    out = io.StringIO()
    terminal = Console(
        file=out, width=width, force_terminal=color, highlight=False, markup=False, emoji=False
    )
    for group in map(printable_values, groups):
        terminal.print(Rule(Text(group_label(group)), style="dim", align="left"))
        terminal.print(Text(group["question"], style="bold"))
        terminal.print(Text(f"gold: {' | '.join(group['golden_answers'])}", style="green"))
        if group.get("group_class"):
            terminal.print(Text(f"group: {group['group_class']}"))
        for trajectory in group["trajectories"]:
            terminal.print()
            for text in _lines(trajectory, group["golden_answers"], color):
                terminal.print(text)
        terminal.print()
    return "\n".join(line.rstrip() for line in out.getvalue().split("\n")).strip("\n")


def listing(groups: Sequence[dict[str, Any]], *, width: int = 100) -> str:
    """One line per group: place, right rollouts, searches, class, id, question and first answer, in
    `width` columns.
    """
    lines = [["#", "right", "searches", "class", "id", "question", "answer"]]
    for place, group in enumerate(groups, start=1):
        rollouts = group["trajectories"]
        right = sum((trajectory.get("outcome") or 0) > 0 for trajectory in rollouts)
        searches = sum(
            turn["kind"] == "search" for trajectory in rollouts for turn in trajectory["turns"]
        ) / max(1, len(rollouts))
        name = group.get("group_class") or (rollouts[0].get("class") if rollouts else None) or ""
        answer = rollouts[0].get("answer") if rollouts else None
        facts = [
            str(place),
            f"{right}/{len(rollouts)}",
            f"{searches:.3g}",
            name,
            group_label(group),
            group["question"],
        ]
        lines.append(
            [
                printable(" ".join(fact.split()))
                for fact in (*facts, "-" if answer is None else answer)
            ]
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    widths[6] = min(widths[6], 24)
    widths[5] = min(widths[5], max(20, width - sum(widths) + widths[5] - 2 * 6))
    return "\n".join(
        "  ".join(_fitted(cell, room) for cell, room in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def _fitted(text: str, width: int) -> str:
    return text.ljust(width) if len(text) <= width else f"{text[: width - 1]}…"


def side_by_side(
    pairs: Sequence[Pair], names: tuple[str, str], *, width: int = 120, color: bool = False
) -> str:
    """Two trajectories of each question in two columns, the first run left."""
    from rich.console import Console, Group
    from rich.rule import Rule
    from rich.table import Table
    from rich.text import Text

    out = io.StringIO()
    terminal = Console(
        file=out, width=width, force_terminal=color, highlight=False, markup=False, emoji=False
    )
    for pair in pairs:
        golds = printable_values(pair.golds)
        terminal.print(Rule(Text(printable(pair.label)), style="dim", align="left"))
        terminal.print(Text(printable(pair.question), style="bold"))
        terminal.print(Text(f"gold: {' | '.join(golds)}", style="green"))
        grid = Table.grid(padding=(0, 2), expand=True)
        grid.add_column(ratio=1, overflow="fold")
        grid.add_column(ratio=1, overflow="fold")
        grid.add_row(*(Text(printable(name), style="bold") for name in names))
        grid.add_row(
            *(
                Group(*_lines(printable_values(trajectory), golds, color))
                for trajectory in (pair.first, pair.second)
            )
        )
        terminal.print(grid)
        terminal.print()
    return "\n".join(line.rstrip() for line in out.getvalue().split("\n")).strip("\n")


def _lines(trajectory: dict[str, Any], golds: Sequence[str], color: bool) -> list[Any]:
    """A trajectory whose texts are `printable`."""
    from rich.padding import Padding
    from rich.text import Text

    outcome = trajectory.get("outcome")
    facts = [f"rollout {trajectory.get('sample', 0) + 1}", str(trajectory.get("class") or "")]
    facts += [f"outcome {outcome:g}"] if outcome is not None else []
    branch = trajectory.get("branch")
    if branch:
        facts.append(f"branch of rollout {branch['parent'] + 1} after turn {branch['turns']}")
    unanswered, refused = trajectory.get("unanswered"), trajectory.get("refused")
    failed = trajectory.get("failed") and not unanswered
    facts += ["search failed, not trained on"] if failed else []
    facts += [f"not answered by the server: {unanswered}"] if unanswered else []
    facts += [f"refused by the server: {refused}"] if refused else []
    lines: list[Any] = [Text(" · ".join(filter(None, facts)), style="bold cyan")]
    for index, turn in enumerate(trajectory["turns"]):
        lines.append(Padding(_heading(trajectory, index), (0, 0, 0, 2)))
        said = turn.get("text") or (f"query: {turn['query']}" if turn.get("query") else "")
        lines.append(Padding(_marked(said, golds, color, "dim"), (0, 0, 0, 4)))
        for note in _call_notes(turn):
            lines.append(Padding(Text(note, style="dim"), (0, 0, 0, 4)))
        if turn.get("search_error"):
            lines.append(
                Padding(
                    Text(f"search failed: {turn['search_error']}", style="red"),
                    (0, 0, 0, 4),
                )
            )
        for passage, shown, cut in passage_parts(turn):
            text = Text(f"[{passage['id']}] ", style="blue")
            text.append_text(_marked(_line(shown, LONGEST_SHOWN), golds, color))
            if cut:
                text.append(f"{' ' if shown else ''}‹cut: ", style="bright_black")
                text.append_text(_marked(_line(cut, LONGEST_CUT), golds, color, "bright_black"))
                text.append("›", style="bright_black")
            lines.append(Padding(text, (0, 0, 0, 4)))
        if is_unknown(turn):
            note = "(the observation is not recorded: what the model was shown of these is unknown)"
            lines.append(Padding(Text(note, style="dim"), (0, 0, 0, 4)))
        if not turn.get("passages") and turn.get("feedback"):
            lines.append(Padding(_marked(turn["feedback"].strip(), golds, color), (0, 0, 0, 4)))
    answer = trajectory.get("answer")
    lines.append(Text(f"  answer: {answer}" if answer is not None else "  no answer", style="bold"))
    return lines


def _call_notes(turn: dict[str, Any]) -> list[str]:
    """What the record says of the turn's function calls and of what the server added."""
    notes = []
    if turn.get("thought"):
        notes.append(
            f"reasoning (kept apart by the server): {_line(turn['thought'], LONGEST_SHOWN)}"
        )
    if turn.get("served_as"):
        notes.append(f"the server answered as {turn['served_as']}")
    if turn.get("call_error"):
        notes.append(f"call not valid: {turn['call_error']}")
    if turn.get("ignored_calls"):
        notes.append(f"{counted(turn['ignored_calls'], 'more call')}, not executed")
    if turn.get("call_in_thought"):
        notes.append("the call stands in a thought without an end")
    return notes


def _line(text: str, longest: int) -> str:
    return shortened(" ".join(text.split()), longest)


def _heading(trajectory: dict[str, Any], index: int) -> Any:
    from rich.text import Text

    turn = trajectory["turns"][index]
    text = Text(f"turn {index + 1}: {turn['kind']}", style="bold")
    branch = trajectory.get("branch")
    if branch and index < branch["turns"] and index < len(trajectory.get("path") or []):
        owner = trajectory["path"][index]
        text.append(f"  shared, sampled for rollout {owner + 1}", style="not bold")
    if trajectory.get("first_occurrence") == index + 1:
        text.append("  gold answer first occurs here", style="yellow")
    rewards, advantages = trajectory.get("turn_rewards") or [], trajectory.get("advantages") or []
    if index < len(rewards):
        text.append(f"  reward {rewards[index]:.2f}", style="not bold")
    if index < len(advantages):
        value = advantages[index]
        text.append(
            f"  advantage {value:+.2f}",
            style="green" if value > 0 else "red" if value < 0 else "not bold",
        )
    return text


def _marked(value: str, golds: Sequence[str], color: bool, style: str = "") -> Any:
    from rich.text import Text

    text = Text()
    for index, piece in enumerate(marked(value, golds)):
        gold = index % 2 == 1
        text.append(
            f"»{piece}«" if gold and not color else piece,
            style="black on yellow" if gold else style,
        )
    return text
