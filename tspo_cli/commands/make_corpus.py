"""`tspo data make-corpus`: a corpus from questions that bring their own paragraphs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tspo_cli import console
from tspo_cli.commands.options import Json, Overwrite, check_folder
from tspo_cli.console import counted


def make_corpus(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            help="JSON, JSONL or parquet files, ARCHIVE.zip::FILE, hf:NAME[:CONFIG]:SPLIT, "
            "hotpotqa:train and the like, or folders with questions and their corpus.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", callback=check_folder, help="Directory to write: corpus, questions and a card."
        ),
    ],
    limit: Annotated[
        int, typer.Option(min=0, help="Only the first questions of each set and split. 0: all.")
    ] = 0,
    held_out: Annotated[
        int,
        typer.Option(
            "--held-out",
            min=0,
            metavar="N",
            help="Write N questions to dev.jsonl.gz and the others to train.jsonl.gz. Digests of "
            "the ids decide, among questions with gold passages first; questions with the same "
            "words stay together.",
        ),
    ] = 0,
    skip_invalid: Annotated[
        bool,
        typer.Option("--skip-invalid", help="Leave malformed questions out and count them."),
    ] = False,
    gold_only: Annotated[
        bool,
        typer.Option("--gold-only", help="Leave out questions whose gold passages are not known."),
    ] = False,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make a corpus from questions that bring their own paragraphs.

    Sets: HotpotQA (distractor), 2WikiMultihopQA and MuSiQue, as their original files or from the
    Hugging Face hub. Each paragraph becomes one passage, and the questions name their gold
    passages. The card says what was left out, and that scores do not compare with published ones.

    tspo data make-corpus hotpot_dev_distractor_v1.json --out data/hotpot

    tspo data make-corpus hotpotqa:train --out data/hotpot --limit 20000 --held-out 500
    """
    from dataclasses import asdict

    from tspo_cli.data.corpus.made_corpus import Options
    from tspo_cli.data.corpus.made_corpus import make_corpus as make

    options = Options(limit, held_out, skip_invalid, gold_only)
    summary = make(sources, out, options, overwrite=overwrite)
    for reason, count in summary.left_out.items():
        console.say(f"{counted(count, 'question')} left out: {reason}")
    if as_json:
        totals = {"path": str(out), "questions": summary.questions}
        console.result_json(totals | asdict(summary))
        return
    repeated = summary.given - summary.passages
    console.result(
        f"{out}: {counted(summary.passages, 'passage')} "
        f"({counted(repeated, 'repeated one')} left out)"
    )
    for file in summary.files:
        gold = f", {file.without_gold} without gold passages" if file.without_gold else ""
        console.result(f"{out / file.name}: {counted(file.questions, 'question')}{gold}")
