"""`tspo data`: list, check, convert and make data sets, corpora and demonstrations."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tspo_cli import console
from tspo_cli.commands.demonstrations import check_demos, demos_from, make_demos
from tspo_cli.commands.make_corpus import make_corpus
from tspo_cli.commands.options import Json, Overwrite, check_file, check_folder
from tspo_cli.console import counted
from tspo_cli.errors import GateError, InvalidInputError, UsageError

if TYPE_CHECKING:
    from tspo_cli.data.check import Problem

_MOST_PROBLEMS = 20
app = typer.Typer(
    no_args_is_help=True,
    help="List, check, convert and make data sets, corpora and demonstrations.",
)
app.command(name="make-demos")(make_demos)
app.command(name="make-corpus")(make_corpus)
app.command(name="demos-from")(demos_from)


@app.command(name="list")
def list_data(as_json: Json = False) -> None:
    """List the data sets in ./data and $TSPO_DATA, and the known benchmarks.

    --data accepts every listed name. A benchmark that is not in one of these folders is read from
    the Hugging Face hub. To add a data set of your own, write an entry with path or hub in
    data/benchmarks.toml.
    """
    from tspo_cli.data.benchmarks import benchmarks
    from tspo_cli.data.catalog import find_data_sets
    from tspo_cli.data.readers import DATA_VARIABLE, data_roots

    data_sets = find_data_sets(data_roots())
    known = benchmarks(data_roots())
    local = {data_set.name for data_set in data_sets}
    if as_json:
        datasets = [
            {
                "name": data_set.name,
                "questions": data_set.questions,
                "path": str(data_set.path),
                "corpus": None if data_set.corpus is None else str(data_set.corpus),
            }
            for data_set in data_sets
        ]
        entries = [
            entry.model_dump() | {"local": entry.name in local or bool(entry.path)}
            for entry in known.values()
        ]
        console.result_json({"datasets": datasets, "benchmarks": entries})
        return
    if not data_sets:
        folders = " and ".join(map(str, data_roots()))
        console.say(
            f"no data sets in {folders}; put question files there, or set {DATA_VARIABLE} to their "
            "folder"
        )
    width = max(len(name) for name in [*local, *known])
    for data_set in data_sets:
        corpus = "no corpus" if data_set.corpus is None else f"corpus {data_set.corpus}"
        size = f"{counted(data_set.questions, 'question'):>18}"
        console.result(f"{data_set.name:<{width}}  {size}  {data_set.path}  {corpus}")
    for entry in known.values():
        if entry.name not in local:
            size = f"{counted(entry.size, 'question') if entry.size else 'questions':>18}"
            about = ", ".join(part for part in (entry.title, entry.split, entry.licence) if part)
            console.result(f"{entry.name:<{width}}  {size}  {entry.location}  {about}".rstrip())


@app.command()
def check(
    questions: Annotated[
        str, typer.Argument(metavar="FILE", help="Questions, demonstrations, or a data set's name.")
    ],
    corpus: Annotated[
        Path | None, typer.Option("--corpus", help="Corpus to check together with the questions.")
    ] = None,
    model: Annotated[
        str,
        typer.Option("--model", help="Demonstrations: a model, for lengths in its tokens."),
    ] = "",
    as_json: Json = False,
) -> None:
    """Check questions with their corpus, or demonstrations, line by line.

    The exit code is 3 if there is a problem.

    tspo data check data/nq/questions.jsonl.gz --corpus data/nq/corpus.jsonl.gz
    """
    from dataclasses import asdict

    from tspo_cli.data.check import check as check_data
    from tspo_cli.data.readers import resolve_data
    from tspo_cli.evaluation.sets import benchmark_size
    from tspo_cli.training.sft.demonstration_file import holds_demonstrations

    path = resolve_data(questions)
    if corpus is None and holds_demonstrations(path):
        check_demos(path, model, as_json=as_json)
        return
    if model:
        raise UsageError("--model: for demonstrations, and this file has none")
    report = check_data(path, corpus)
    if as_json:
        problems = [
            {"file": str(problem.file), "line": problem.line, "message": problem.message}
            for problem in report.problems
        ]
        console.result_json(asdict(report) | {"problems": problems})
    else:
        lines = _problem_lines(report.problems)
        for line in lines[:_MOST_PROBLEMS]:
            console.result(line)
        if len(lines) > _MOST_PROBLEMS:
            more = len(lines) - _MOST_PROBLEMS
            console.result(f"... and {counted(more, 'more problem')}; --json lists all")
        if hidden := report.problem_count - len(report.problems):
            console.result(f"... and {counted(hidden, 'more problem')}, counted and not listed")
        console.result(
            f"questions              {report.questions}  {_counts(report.data_sources)}".rstrip()
        )
        if report.types:
            console.result(f"types                  {_counts(report.types)}")
        console.result(f"with supporting ids    {report.with_supporting_ids}")
        identical = report.identical_questions + (report.identical_passages or 0)
        if identical:
            console.result(f"identical, left out    {identical}")
        if report.passages is not None:
            console.result(f"passages               {report.passages}")
            told = report.questions - report.yes_no_questions
            left_out = f"  (of {told}: yes and no prove nothing)" if report.yes_no_questions else ""
            console.result(f"with answer in corpus  {report.with_answer_in_corpus}{left_out}")
    size = benchmark_size(questions)
    if size not in (None, report.questions):
        console.say(
            f"{questions}: {report.questions} of the benchmark's {counted(size, 'question')}"
        )
    if report.problems:
        count = report.problem_count
        raise InvalidInputError(
            f"{path}: {counted(count, 'problem')}; correct {'them' if count > 1 else 'it'} and "
            "check again"
        )


@app.command()
def audit(
    data: Annotated[
        list[str], typer.Argument(metavar="FILE_OR_NAME", help="Question files or data sets.")
    ],
    index: Annotated[
        Path | None,
        typer.Option("--index", help="Index to search; its corpus is read."),
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option("--corpus", help="Corpus file, if there is no index yet.")
    ] = None,
    ks: Annotated[
        list[int] | None,
        typer.Option("-k", min=1, help="Passages per search. Repeatable. Default: 3 5 10."),
    ] = None,
    train: Annotated[
        list[str] | None,
        typer.Option(
            "--train",
            help="Training questions, to find those that FILE_OR_NAME has too. Repeatable.",
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=0, help="Only the first questions of each set. 0: all.")
    ] = 0,
    strict: Annotated[
        bool,
        typer.Option(
            "--strict", help="Exit with code 6 if a question is in the corpus, shared or repeated."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure which scores a corpus allows, and find leaked or repeated questions.

    The table has the share of questions (%) whose answers and gold passages the corpus holds and,
    with --index, the share that one search with the question finds. Questions are named that a
    passage repeats word for word (worse: with their answer), that are training questions too, or
    that occur twice in their file.

    tspo data audit nq hotpotqa --index runs/index --train data/nq/train.jsonl
    """
    from tspo_cli.data.corpus import contamination
    from tspo_cli.data.readers import resolve_data
    from tspo_cli.evaluation.audit import audit_sets
    from tspo_cli.evaluation.ceiling import no_gold
    from tspo_cli.evaluation.sets import read_eval_sets
    from tspo_cli.reporting.tables.evaluation_table import audit_table
    from tspo_cli.retrieval.index.other_corpus import OTHER_CORPUS

    if (index is None) == (corpus is None) and (corpus is not None or not train):
        raise UsageError("give either --index DIR or --corpus FILE, or only --train FILE")
    sets = read_eval_sets(data, limit)
    questions = [at for name in data for at in contamination.located(resolve_data(name), limit)]
    trained = [at for name in train or [] for at in contamination.located(resolve_data(name))]
    depths = sorted(set(ks or [3, 5, 10]))
    found = audit_sets(sets, questions, trained, index=index, corpus=corpus, depths=depths)
    for row in found.rows:
        if no_gold(row):
            console.warn(f"{row['dataset']}: {OTHER_CORPUS}")
    counts = contamination.counts(found.findings)
    examples = contamination.examples(found.findings)
    if as_json:
        leaked = {"counts": counts, "examples": [example.as_json() for example in examples]}
        console.result_json({"results": found.rows, "contamination": leaked})
    else:
        for kind, words in contamination.KINDS.items():
            if counts[kind]:
                console.result(f"{words}: {counts[kind]}")
                for example in examples:
                    if example.kind == kind:
                        console.result(f"  {example}")
        if found.rows:
            console.result(audit_table(found.rows, width=console.width()))
    if not found.findings:
        places = ["in a passage"] * bool(found.rows) + ["among the training questions"] * bool(
            train
        )
        console.say(f"no question was found {', '.join([*places, 'or twice in its file'])}")
    elif strict:
        raise GateError(f"{counted(len(found.findings), 'finding')}, expected none (--strict)")


@app.command()
def convert(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN", help="JSONL, JSON, CSV, TSV, parquet, or hf:NAME[:CONFIG]:SPLIT."
        ),
    ],
    target: Annotated[
        Path | None,
        typer.Argument(
            metavar="OUT",
            callback=check_file,
            help="File to write; its name ends in .jsonl or .jsonl.gz.",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", callback=check_file, help="OUT as an option.")
    ] = None,
    kind: Annotated[
        Literal["questions", "passages"] | None,
        typer.Option("--kind", help="Content of IN. Default: what its first record is."),
    ] = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Convert questions or passages to JSONL from the formats of other projects.

    Search-R1, FlashRAG, MuSiQue, PopQA, TriviaQA, SQuAD and others are recognised by their fields,
    also in the original files of TriviaQA and SQuAD. Unanswerable questions are left out.

    tspo data convert nq_search/test.parquet data/nq/questions.jsonl.gz

    tspo data convert hf:RUC-NLPIR/FlashRAG_datasets:nq:test data/nq/questions.jsonl.gz
    """
    from tspo_cli.data.convert import convert as convert_data

    target = _one_target(source, target, out)
    kind, count = convert_data(source, target, kind, overwrite=overwrite)
    if as_json:
        console.result_json({"kind": kind, "count": count, "path": str(target)})
    else:
        console.result(f"{target}: {counted(count, kind.removesuffix('s'))}")


def _one_target(source: Path, target: Path | None, out: Path | None) -> Path:
    chosen = target or out
    if chosen is None or (target and out):
        command = shlex.join(["tspo", "data", "convert", str(source)])
        raise UsageError(f"name one file to write: {command} OUT.jsonl")
    return chosen


@app.command(name="make-world")
def make_world(
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            callback=check_folder,
            help="Directory to write: corpus, train and test questions.",
        ),
    ],
    seed: Annotated[
        int, typer.Option(help="Seed. The same seed and options give the same bytes.")
    ] = 0,
    entities: Annotated[
        int, typer.Option(help="Entities that training questions are about.")
    ] = 960,
    test_entities: Annotated[
        int, typer.Option(help="Other entities, which test questions are about.")
    ] = 576,
    relations: Annotated[
        int | None, typer.Option(help="Number of kinds of facts. Default: all.")
    ] = None,
    train_questions: Annotated[int, typer.Option(help="Number of training questions.")] = 6000,
    test_questions: Annotated[int, typer.Option(help="Number of test questions.")] = 600,
    two_hop_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of two-hop (bridge) questions.")
    ] = 0.5,
    comparison_share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of yes/no questions about two entities.")
    ] = 0.1,
    facts_per_passage: Annotated[
        int, typer.Option(help="Number of facts about an entity in a passage.")
    ] = 2,
    bait_share: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Share of facts with a distractor passage that has the question's words.",
        ),
    ] = 1.0,
    sharing: Annotated[
        float,
        typer.Option(min=1, max=6, help="Average number of entities whose names share a word."),
    ] = 3.0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the world in the directory.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Make a synthetic world: a corpus of invented facts, and questions about them.

    A question needs one search or two.

    tspo data make-world --out data/world --seed 1 --two-hop-share 0.7
    """
    from pydantic import ValidationError

    from tspo_cli.data.world.generate import make_world as make
    from tspo_cli.data.world.world_config import WorldConfig

    options = {
        "seed": seed,
        "entities": entities,
        "test_entities": test_entities,
        "relations": relations,
        "train_questions": train_questions,
        "test_questions": test_questions,
        "two_hop_share": two_hop_share,
        "comparison_share": comparison_share,
        "facts_per_passage": facts_per_passage,
        "bait_share": bait_share,
        "sharing": sharing,
    }
    try:
        config = WorldConfig.model_validate(
            {name: value for name, value in options.items() if value is not None}
        )
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + str(first["loc"][0]).replace("_", "-")
        raise InvalidInputError(f"{option} {first['input']}: {first['msg'].lower()}") from None
    summary = make(config, out, overwrite)
    if as_json:
        console.result_json(summary | {"path": str(out)})
    else:
        nouns = {name: name.replace("_", " ").removesuffix("s") for name in summary}
        parts = (counted(count, nouns[name]) for name, count in summary.items())
        console.result(f"{out}: {', '.join(parts)}")


def _problem_lines(problems: Sequence[Problem]) -> list[str]:
    """A line for each problem. Those of a file with the same words share the line of the first."""
    times = Counter((problem.file, problem.message) for problem in problems)
    firsts = {(problem.file, problem.message): problem for problem in reversed(problems)}
    return [
        str(problem) + (f" ({counted(times[key] - 1, 'more such line')})" if times[key] > 1 else "")
        for key in times
        for problem in [firsts[key]]
    ]


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
