"""`tspo inspect`: read trajectories in the terminal, compare two runs, export what was
retrieved.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from tspo_cli import console
from tspo_cli.commands.options import Json, check_file
from tspo_cli.console import counted
from tspo_cli.errors import InvalidInputError, UsageError
from tspo_cli.plain_files import open_plain

WHICH = ("first", "second", "both", "none")


def _check_trec(path: Path | None) -> Path | None:
    """`check_file`, and a file that is there must be a TREC file: there is no --overwrite."""
    if check_file(path) is not None and path is not None and path.exists():
        with open_plain(path) as handle:
            columns = handle.readline(10_000).split()
        if columns and not (len(columns) in (4, 6) and columns[1] in (b"Q0", b"0")):
            raise InvalidInputError(f"{path}: is no TREC file; delete it, or choose another place")
    return path


def inspect(
    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="A run directory, or a folder of `tspo eval`.")
    ],
    step: Annotated[
        int | None, typer.Option("--step", help="Training step. Default: the last one kept.")
    ] = None,
    evaluation: Annotated[
        bool, typer.Option("--eval", help="Evaluated items instead of training rollouts.")
    ] = False,
    dataset: Annotated[
        str | None, typer.Option("--dataset", help="Evaluated items of this data set.")
    ] = None,
    group: Annotated[
        int | None, typer.Option("--group", help="Only the group at this place, from 1.")
    ] = None,
    question: Annotated[
        str | None,
        typer.Option(
            "--question", metavar="ID", help="Only this question: its id, or data set/id."
        ),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option(
            "--class",
            help="Only trajectories (success, near-miss, miss) or groups (mixed, ...) of a class.",
        ),
    ] = None,
    near_miss: Annotated[
        bool, typer.Option("--near-miss", help="The same as --class near-miss.")
    ] = False,
    invalid: Annotated[
        bool, typer.Option("--invalid", help="Only trajectories with an invalid turn.")
    ] = False,
    find: Annotated[
        str | None,
        typer.Option(
            "--find", metavar="WORDS", help="Only with these words in question, answer or query."
        ),
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="One line per question.")] = False,
    browse: Annotated[
        bool, typer.Option("--browse", help="One after the other, asking where to go.")
    ] = False,
    compare: Annotated[
        Path | None,
        typer.Option("--compare", metavar="RUN", help="The answers of another run side by side."),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            "--only", help="With --compare: right is first, second, both or none (neither)."
        ),
    ] = None,
    trec_run: Annotated[
        Path | None,
        typer.Option(
            "--trec-run",
            metavar="FILE",
            callback=_check_trec,
            help="Write what was retrieved as a TREC run.",
        ),
    ] = None,
    qrels: Annotated[
        Path | None,
        typer.Option(
            "--qrels",
            metavar="FILE",
            callback=_check_trec,
            help="Write the gold passages as TREC qrels.",
        ),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", help="Questions to show. 0: all. Default: 5; all with --list."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show trajectories turn by turn: queries, passages, rewards and advantages.

    Passages that hold a gold answer for the first time are marked.

    With --json the records are printed as JSON; for an export, the names of its files.
    """
    from tspo_cli.reporting.inspect.selection import choose_source, select
    from tspo_cli.reporting.inspect.transcript import listing, transcript
    from tspo_cli.reporting.sources.run_view import examined_by_doctor, open_run
    from tspo_cli.reporting.sources.trajectories import read_groups

    _check(limit, name, near_miss, compare, only, listed, browse)
    exports = trec_run is not None or qrels is not None
    wants_items = evaluation or exports or compare is not None
    with examined_by_doctor([run]):
        view = open_run(run)
        source = choose_source(view, step=step, evaluation=wants_items, dataset=dataset)
        groups = list(read_groups(view, source))
    wanted = {
        "question": question,
        "name": "near-miss" if near_miss else name,
        "invalid": invalid,
        "find": find,
    }
    chosen = select(groups, number=group, **wanted)  # type: ignore[arg-type]
    if exports:
        _export(chosen, view.name, trec_run, qrels, as_json)
        return
    if compare is not None:
        with examined_by_doctor([compare]):
            other = open_run(compare)
            theirs = choose_source(other, step=None, evaluation=True, dataset=source.dataset)
            other_groups = list(read_groups(other, theirs))
        names = (view.name, other.name) if view.name != other.name else (str(run), str(compare))
        _compare(chosen, other_groups, names, only, limit, as_json)
        return
    most = (0 if listed or browse else 5) if limit is None else limit
    shown = chosen[: most or None]
    if as_json:
        console.result_json(
            {"run": view.name, "step": source.step, "dataset": source.dataset, "groups": shown}
        )
        return
    console.say(f"{view.name}, {source.label}: {len(shown)} of {counted(len(chosen), 'group')}")
    if browse:
        _browse(shown)
    elif listed:
        console.result(listing(shown, width=_width()))
    else:
        console.result(transcript(shown, width=_width(), color=sys.stdout.isatty()), styled=True)


def _check(
    limit: int | None,
    name: str | None,
    near_miss: bool,
    compare: Path | None,
    only: str | None,
    listed: bool,
    browse: bool,
) -> None:
    if limit is not None and limit < 0:
        raise UsageError(f"--limit {limit}: give 0 for all, or a positive number")
    if near_miss and name is not None:
        raise UsageError(f"--near-miss and --class {name} exclude each other")
    if only is not None and (compare is None or only not in WHICH):
        raise UsageError(f"--only {only}: goes with --compare, and is one of {', '.join(WHICH)}")
    if sum((listed, browse, compare is not None)) > 1:
        raise UsageError("--list, --browse and --compare exclude each other")


def _export(
    groups: Sequence[dict[str, Any]], tag: str, run: Path | None, qrels: Path | None, as_json: bool
) -> None:
    from tspo_cli.disk import atomic_write_text
    from tspo_cli.reporting.inspect import trec

    files = [(run, trec.trec_run(groups, tag))] if run is not None else []
    files += [(qrels, trec.trec_qrels(groups))] if qrels is not None else []
    written = list[dict[str, Any]]()
    for path, lines in files:
        atomic_write_text(path, "".join(f"{line}\n" for line in lines))
        written.append(
            {
                "path": str(path),
                "lines": len(lines),
                "questions": len({line.split()[0] for line in lines}),
            }
        )
    if as_json:
        console.result_json({"files": written})
        return
    for entry in written:
        console.say(
            f"{entry['path']}: {counted(entry['lines'], 'line')}, "
            f"{counted(entry['questions'], 'question')}"
        )


def _compare(
    first: Sequence[dict[str, Any]],
    second: Sequence[dict[str, Any]],
    names: tuple[str, str],
    only: str | None,
    limit: int | None,
    as_json: bool,
) -> None:
    from tspo_cli.evaluation.statistics.paired_tests import mcnemar_p
    from tspo_cli.reporting.inspect.selection import OUTCOMES, pairs
    from tspo_cli.reporting.inspect.transcript import side_by_side

    found = pairs(first, second)
    counts = {outcome: sum(pair.outcome == outcome for pair in found) for outcome in OUTCOMES}
    p = mcnemar_p(counts["first"], counts["second"])
    # Without a wish the questions on which the two differ are what a comparison is about.
    chosen = [
        pair
        for pair in found
        if pair.outcome == only or (only is None and pair.outcome in ("first", "second"))
    ]
    shown = chosen[: (5 if limit is None else limit) or None]
    if as_json:
        questions = [
            {
                "id": pair.label,
                "question": pair.question,
                "golden_answers": pair.golds,
                "right": pair.outcome,
            }
            | {"first": pair.first, "second": pair.second}
            for pair in shown
        ]
        runs = {"first": names[0], "second": names[1]}
        console.result_json({"runs": runs, "right": counts, "p_mcnemar": p, "questions": questions})
        return
    console.say(
        f"{counted(len(found), 'question')}: both right {counts['both']}, only {names[0]} "
        f"{counts['first']}, "
        f"only {names[1]}"
        f" {counts['second']}, both wrong {counts['none']} (McNemar p {p:.3g}); {len(shown)} of "
        f"{len(chosen)} shown"
    )
    console.result(
        side_by_side(shown, names, width=_width(), color=sys.stdout.isatty()), styled=True
    )


def _browse(groups: Sequence[dict[str, Any]]) -> None:
    """Ask where to go: Enter next, p previous, a number, l list, /words find, q quit."""
    from tspo_cli.errors import MissingResourceError
    from tspo_cli.reporting.inspect.selection import select
    from tspo_cli.reporting.inspect.transcript import listing, transcript
    from tspo_cli.text.whole_numbers import whole_number

    color, width = sys.stdout.isatty(), _width()
    place = 0
    while True:
        console.result(transcript(groups[place : place + 1], width=width, color=color), styled=True)
        ways = f"{place + 1} of {len(groups)}; Enter next, p, number, l list, /words, q"
        said = str(typer.prompt(ways, default="", show_default=False, err=True)).strip()
        if said == "q" or (not said and place + 1 == len(groups)):
            return
        if not said:
            place += 1
        elif said == "p":
            place = max(0, place - 1)
        elif 1 <= (whole_number(said) or 0) <= len(groups):
            place = int(said) - 1
        elif said == "l":
            console.result(listing(groups, width=width))
        elif said.startswith("/"):
            try:
                place = groups.index(select(groups, find=said[1:])[0])
            except MissingResourceError as error:
                console.say(str(error))
        else:
            console.say(f"{said}: not one of these")


def _width() -> int:
    return console.width() or 120
