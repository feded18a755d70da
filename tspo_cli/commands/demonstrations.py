"""`tspo data make-demos` and `demos-from`: demonstrations for SFT."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tspo_cli import console
from tspo_cli.commands.options import Json, Overwrite, check_file
from tspo_cli.console import agreeing, counted


def make_demos(
    questions: Annotated[
        list[str], typer.Argument(metavar="FILE_OR_NAME", help="Questions with gold passages.")
    ],
    index: Annotated[Path, typer.Option("--index", help="Index to search, with their passages.")],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            callback=check_file,
            help="File to write; its name ends in .jsonl or .jsonl.gz.",
        ),
    ],
    k: Annotated[int, typer.Option("-k", min=1, help="Passages per search.")] = 3,
    limit: Annotated[
        int, typer.Option(min=0, help="Only the first questions of each set. 0: all.")
    ] = 0,
    seed: Annotated[
        int, typer.Option(help="Seed. The same seed and options give the same bytes.")
    ] = 0,
    imperfect: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Share with a deliberate mistake: a useless search first, or a wrong answer "
            "before the last search.",
        ),
    ] = 0.0,
    max_searches: Annotated[
        int, typer.Option(min=1, help="Searches of a demonstration at most.")
    ] = 4,
    min_searches: Annotated[
        int,
        typer.Option(
            min=0, help="Searches of a demonstration at least, also if its passages came earlier."
        ),
    ] = 0,
    max_words: Annotated[
        int,
        typer.Option(
            min=0, help="Longest demonstration that is kept, passages included. 0: any length."
        ),
    ] = 0,
    restate: Annotated[
        bool,
        typer.Option("--restate", help="Begin the last thought with the question."),
    ] = False,
    question_first: Annotated[
        bool,
        typer.Option(
            "--question-first",
            help="Ask for the question before titles and names, where that brings a gold passage.",
        ),
    ] = False,
    quote: Annotated[
        bool,
        typer.Option(
            "--quote/--no-quote", help="Quote the sentence with the answer in the last thought."
        ),
    ] = True,
    distant: Annotated[
        bool,
        typer.Option(
            "--distant",
            help="For a question without gold passages in the index, search for the first of ten "
            "passages that holds an accepted answer.",
        ),
    ] = False,
    exclude_seen: Annotated[
        bool,
        typer.Option(
            "--exclude-seen",
            help="A search gives only passages that no earlier one gave, as with "
            "rollout.exclude_seen.",
        ),
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Script demonstrations for SFT from questions with gold passages.

    A script searches the index until the gold passages (supporting_ids) came back, and gives the
    golden answer. It asks for the question, and for titles and names in the question and in the
    passages that it has read. A question whose gold passages do not come back gives none.

    Without gold passages add --distant, and expect a few demonstrations whose passage holds the
    answer by chance.

    tspo data make-demos data/hotpotqa/train.jsonl --index runs/index --out demos.jsonl
    """
    from dataclasses import asdict

    from tspo_cli.data.readers import read_questions, resolve_data
    from tspo_cli.errors import InvalidInputError, UsageError
    from tspo_cli.retrieval.index.searcher import open_index
    from tspo_cli.training.sft.demonstration_writer import check_target, write_demonstrations
    from tspo_cli.training.sft.left_out import left_out
    from tspo_cli.training.sft.scripting.make_demos import make_demonstrations
    from tspo_cli.training.sft.scripting.scripted_search import ScriptOptions

    if min_searches > max_searches:
        raise UsageError(f"--min-searches {min_searches}: --max-searches is {max_searches}")
    check_target(out, overwrite=overwrite)
    asked = [
        question
        for name in questions
        for question in read_questions(resolve_data(name), limit=limit)
    ]
    options = ScriptOptions(
        k=k,
        seed=seed,
        imperfect=imperfect,
        max_searches=max_searches,
        min_searches=min_searches,
        max_words=max_words,
        question_first=question_first,
        restate=restate,
        quote=quote,
        distant=distant,
        exclude_seen=exclude_seen,
    )
    records, summary = make_demonstrations(asked, open_index(index), options)
    reasons = left_out(summary.not_kept)
    if not records:
        advice = "; index the passages that supporting_ids name, or add --distant"
        lacks_gold = "gold_not_in_index" in summary.not_kept and not distant
        raise InvalidInputError(
            f"{out}: no question gave a demonstration ({reasons}){advice if lacks_gold else ''}"
        )
    write_demonstrations(out, records, overwrite=overwrite)
    if as_json:
        console.result_json(asdict(summary) | {"path": str(out)})
        return
    if reasons:
        console.say(f"not kept: {reasons}")
    searches = ", ".join(f"{number}: {count}" for number, count in summary.searches.items())
    console.say(
        f"searches {searches}; {summary.median_words:,.0f} words in the median, "
        f"{summary.most_words:,} at most, passages included"
    )
    if imperfect:
        kinds = [f"{name.replace('_', ' ')} {count}" for name, count in summary.imperfect.items()]
        console.say(f"imperfect: {', '.join(kinds) or 'none'}")
    console.result(
        f"{out}: {counted(summary.kept, 'demonstration')} of "
        f"{counted(summary.questions, 'question')}"
    )


def demos_from(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="RUN_OR_EVAL", help="Runs, folders of tspo eval, or their files."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            callback=check_file,
            help="File to write; its name ends in .jsonl or .jsonl.gz.",
        ),
    ],
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            metavar="success|near-miss|miss|all",
            help="Trajectories to take. Repeatable. Default: success.",
        ),
    ] = None,
    per_question: Annotated[
        int,
        typer.Option(min=0, help="Demonstrations of a question, the shortest first. 0: all."),
    ] = 1,
    keep_invalid: Annotated[
        bool,
        typer.Option(
            "--keep-invalid", help="Keep trajectories with invalid turns, which are not trained."
        ),
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Take rollouts of a run, or what a model did in an evaluation, as demonstrations.

    The model may be a stronger one on a server, evaluated with the method search_r1. Texts stay as
    the model wrote them, with the passages that it read.

    tspo data demos-from evals/teacher --class success --out demos.jsonl
    """
    from tspo_cli.errors import InvalidInputError, UsageError
    from tspo_cli.training.sft.demonstration_writer import check_target, write_demonstrations
    from tspo_cli.training.sft.left_out import left_out
    from tspo_cli.training.sft.recorded_rollouts import (
        CLASSES,
        demonstrations_from,
        recorded_trajectories,
    )

    chosen = classes or ["success"]
    for name in chosen:
        if name not in CLASSES:
            raise UsageError(f"--class {name}: expected {', '.join(CLASSES)}")
    check_target(out, overwrite=overwrite)
    recorded = [found for source in sources for found in recorded_trajectories(source)]
    records, unused = demonstrations_from(
        recorded,
        classes=chosen,
        per_question=per_question,
        keep_invalid=keep_invalid,
    )
    reasons = left_out(unused)
    trajectories = agreeing(len(recorded), "trajectory", "trajectories")
    if not records:
        raise InvalidInputError(
            f"{out}: none of {trajectories} gave a demonstration ({reasons}), so nothing was "
            "written"
        )
    write_demonstrations(out, records, overwrite=overwrite)
    if as_json:
        facts = {"trajectories": len(recorded), "kept": len(records), "not_used": unused}
        console.result_json(facts | {"path": str(out)})
        return
    if reasons:
        console.say(f"not used: {reasons}")
    console.result(f"{out}: {counted(len(records), 'demonstration')} of {trajectories}")


def check_demos(path: Path, model: str, *, as_json: bool) -> None:
    """What `tspo data check` says of a file of demonstrations.

    Raises:
        InvalidInputError: a line that is no demonstration; MissingResourceError: no such file or
        model.
    """
    from dataclasses import asdict

    from tspo_cli.errors import InvalidInputError
    from tspo_cli.training.sft.demonstration_check import check_demonstrations, lengths_in_words

    protocol, rollout = None, None
    if model:
        from tspo_cli.config.load_config import load_config
        from tspo_cli.models.load_model import load_tokenizer
        from tspo_cli.rollout.protocol import SearchProtocol

        rollout = load_config(["any/sft"], [f"model.path={model}"]).rollout
        protocol = SearchProtocol.from_config(load_tokenizer(model), rollout)
    report = check_demonstrations(path, protocol, rollout)
    if as_json:
        console.result_json(asdict(report) | {"path": str(path)})
    else:
        for problem in report.problems:
            console.result(problem)
        if hidden := report.problem_count - len(report.problems):
            console.result(f"... and {counted(hidden, 'more problem')}, counted and not listed")
        searches = ", ".join(f"{number}: {count}" for number, count in report.searches.items())
        invalid = f", {report.invalid_turns} invalid" if report.invalid_turns else ""
        console.result(f"demonstrations  {report.demonstrations}")
        console.result(f"turns           {report.turns}{invalid}")
        console.result(f"by searches     {searches}")
        for line in lengths_in_words(report.lengths):
            console.result(line)
        if not model:
            console.say("add --model NAME_OR_DIR for lengths in tokens")
    if report.problems:
        count = report.problem_count
        raise InvalidInputError(
            f"{path}: {counted(count, 'problem')}; correct {'them' if count > 1 else 'it'} and "
            "check again"
        )
    if not report.demonstrations:
        raise InvalidInputError(f"{path}: expected demonstrations, got an empty file")
