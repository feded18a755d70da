"""`tspo data`: list, check and convert data sets, and make synthetic worlds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tspo_cli import console
from tspo_cli.errors import InvalidInputError

app = typer.Typer(no_args_is_help=True, help="List, check and convert data sets, and make synthetic worlds.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(name="list")
def list_data(as_json: Json = False) -> None:
    """List the data sets in ./data and in the folder that $TSPO_DATA names, as `--data` takes them."""
    from tspo_cli.data.catalog import find_data_sets
    from tspo_cli.data.readers import DATA_VARIABLE, data_roots

    found = find_data_sets(data_roots())
    if as_json:
        datasets = [
            {
                "name": one.name,
                "questions": one.questions,
                "path": str(one.path),
                "corpus": None if one.corpus is None else str(one.corpus),
            }
            for one in found
        ]
        console.result_json({"datasets": datasets})
        return
    if not found:
        places = " and ".join(map(str, data_roots()))
        console.say(f"no data sets in {places}; put question files there, or set {DATA_VARIABLE} to their folder")
    width = max((len(one.name) for one in found), default=0)
    for one in found:
        corpus = "no corpus" if one.corpus is None else f"corpus {one.corpus}"
        console.result(f"{one.name:<{width}}  {one.questions:>8} questions  {one.path}  {corpus}")


@app.command()
def check(
    questions: Annotated[str, typer.Argument(metavar="FILE", help="A question file, or the name of a data set.")],
    corpus: Annotated[Path | None, typer.Option("--corpus", help="Check it, and the questions against it.")] = None,
    as_json: Json = False,
) -> None:
    """Check a question file, also against a corpus, and print every problem with file and line. Exit code 3 if any.

    tspo data check data/nq/questions.jsonl.gz --corpus data/nq/corpus.jsonl.gz
    """
    from dataclasses import asdict

    from tspo_cli.data.check import check as check_data
    from tspo_cli.data.readers import resolve_data

    path = resolve_data(questions)
    report = check_data(path, corpus)
    if as_json:
        problems = [{"file": str(one.file), "line": one.line, "message": one.message} for one in report.problems]
        console.result_json(asdict(report) | {"problems": problems})
    else:
        for problem in report.problems:
            console.result(str(problem))
        console.result(f"questions              {report.questions}  {_counts(report.data_sources)}".rstrip())
        if report.types:
            console.result(f"types                  {_counts(report.types)}")
        console.result(f"with supporting ids    {report.with_supporting_ids}")
        if report.passages is not None:
            console.result(f"passages               {report.passages}")
            console.result(f"with answer in corpus  {report.with_answer_in_corpus}")
    if report.problems:
        count = len(report.problems)
        raise InvalidInputError(
            f"{path}: {count} problem{'s' if count > 1 else ''} found; correct them and check again"
        )


@app.command()
def convert(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="JSONL, gzip JSONL, parquet, or hf:NAME[:CONFIG]:SPLIT.")
    ],
    target: Annotated[Path, typer.Argument(metavar="OUT", help="A name that ends in .jsonl or .jsonl.gz.")],
    kind: Annotated[
        Literal["questions", "passages"] | None, typer.Option("--kind", help="What IN holds. [by its first record]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Convert questions or passages from any form that can be read (Search-R1, FlashRAG, ...) to JSONL.

    tspo data convert nq_search/test.parquet data/nq/questions.jsonl.gz

    tspo data convert hf:RUC-NLPIR/FlashRAG_datasets:nq:test data/nq/questions.jsonl.gz
    """
    from tspo_cli.data.convert import convert as convert_data

    found, count = convert_data(source, target, kind)
    if as_json:
        console.result_json({"kind": found, "count": count, "path": str(target)})
    else:
        console.result(f"{target}: {count} {found}")


@app.command(name="make-world")
def make_world(
    out: Annotated[Path, typer.Option("--out", help="Directory to write: corpus, train and test questions.")],
    seed: Annotated[int, typer.Option(help="Same seed and options, same bytes.")] = 0,
    entities: Annotated[int, typer.Option(help="Entities that training questions are about.")] = 960,
    test_entities: Annotated[int, typer.Option(help="Entities that test questions are about; none is shared.")] = 576,
    relations: Annotated[int | None, typer.Option(help="Kinds of facts in use. [all]")] = None,
    train_questions: Annotated[int, typer.Option(help="Questions to train on.")] = 6000,
    test_questions: Annotated[int, typer.Option(help="Questions to test on.")] = 600,
    two_hop_share: Annotated[float, typer.Option(help="Share of bridge questions.")] = 0.5,
    comparison_share: Annotated[float, typer.Option(help="Share of yes/no questions about two entities.")] = 0.1,
    facts_per_passage: Annotated[int, typer.Option(help="Facts about one entity that share a passage.")] = 2,
    bait_share: Annotated[
        float, typer.Option(help="Facts that also have a passage with the question's word and no answer.")
    ] = 1.0,
    sharing: Annotated[float, typer.Option(help="Entities that share a word of their name, on average.")] = 3.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the world in the directory.")] = False,
    as_json: Json = False,
) -> None:
    """Make a synthetic world: a corpus of invented facts, and questions that need one or two searches.

    tspo data make-world --out data/world --seed 1 --two-hop-share 0.7
    """
    from pydantic import ValidationError

    from tspo_cli.data.world.config import WorldConfig
    from tspo_cli.data.world.generate import make_world as make

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
        config = WorldConfig.model_validate({name: value for name, value in options.items() if value is not None})
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + str(first["loc"][0]).replace("_", "-")
        raise InvalidInputError(f"{option} {first['input']}: {first['msg'].lower()}") from None
    summary = make(config, out, overwrite)
    if as_json:
        console.result_json(summary | {"path": str(out)})
    else:
        console.result(f"{out}: " + ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in summary.items()))


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
