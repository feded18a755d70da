"""`tspo index`: build or import a search index, search it, show and verify it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tspo_cli import console
from tspo_cli.commands.options import Json, SearchSettings, check_folder, key_values
from tspo_cli.console import agreeing, counted
from tspo_cli.errors import InvalidInputError

if TYPE_CHECKING:
    from tspo_cli.retrieval.types import SearchResult

app = typer.Typer(
    help="Build a search index over a corpus, search it, check it.", no_args_is_help=True
)

IndexDir = Annotated[Path, typer.Argument(metavar="DIR", help="Index directory.")]
Corpora = Annotated[
    list[Path],
    typer.Argument(
        metavar="CORPUS",
        help="Files of passages (JSONL, JSON, CSV, TSV, plain or gzip; parquet), or folders of "
        ".txt and .md documents. Identical passages are taken once.",
    ),
]
Out = Annotated[
    Path, typer.Option("--out", metavar="DIR", callback=check_folder, help="Directory to write.")
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace an existing index or an unfinished build."),
]
EncoderName = Annotated[
    str, typer.Option(help="Dense: a sentence-transformers model, by directory or name.")
]
SkipDuplicates = Annotated[
    bool,
    typer.Option(
        "--skip-duplicates",
        help="Keep the first of passages that have the same id and other texts.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Set how the index is built and searched. bm25: method, k1, b, stop_words, stemmer, "
        "tokens, min_word. "
        "All kinds: chunk_tokens, chunk_overlap. "
        "dense: preset, query_prefix, passage_prefix, pooling, normalize, max_length, batch_size, "
        "batch_tokens, dtype, device, encoder_backend, factory, rescore, train_size, shard_size, "
        "candidates, nprobe, ef_search, backend, first_pass. "
        "hybrid: all of these, rrf_constant, depth. Repeatable.",
    ),
]


@app.command()
def build(
    corpus: Corpora,
    out: Out,
    kind: Annotated[str, typer.Option(help="bm25, dense, or hybrid (both).")] = "bm25",
    encoder: EncoderName = "",
    settings: Settings = None,
    overwrite: Overwrite = False,
    skip_duplicates: SkipDuplicates = False,
    estimate: Annotated[
        bool,
        typer.Option(
            "--estimate", help="Only estimate the time, disk space and memory of the build."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Build an index directory from a corpus.

    If a dense build is interrupted, the same command continues it.
    """
    from tspo_cli.retrieval.index.build_index import build_index, estimate_build

    chosen = key_values(settings)
    if estimate:
        estimated = estimate_build(corpus, kind=kind, encoder=encoder, settings=chosen)
        if as_json:
            console.result_json(estimated)
        else:
            _table(
                {
                    name.removesuffix("_bytes"): _readable(name, value)
                    for name, value in estimated.items()
                }
            )
        return
    manifest = build_index(
        corpus,
        out,
        kind=kind,
        encoder=encoder,
        settings=chosen,
        overwrite=overwrite,
        skip_duplicates=skip_duplicates,
    )
    _done(out, manifest, as_json)


@app.command("import")
def import_(
    vectors: Annotated[
        list[Path],
        typer.Argument(metavar="FAISS", help="FAISS index file, or the part_* pieces of one."),
    ],
    corpus: Annotated[
        Path, typer.Option(help="Its corpus, line by line in the order of the rows.")
    ],
    out: Out,
    encoder: EncoderName,
    settings: Settings = None,
    least_cosine: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Least cosine similarity of a stored vector with its passage, encoded again. "
            "Below it the import is refused. 0: no check.",
        ),
    ] = 0.9,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Import a FAISS index and its corpus, such as Search-R1's, without a copy."""
    from tspo_cli.retrieval.index.import_vectors import import_index

    manifest = import_index(
        vectors,
        corpus,
        out,
        encoder=encoder,
        settings=key_values(settings),
        least_cosine=least_cosine,
        overwrite=overwrite,
    )
    _done(out, manifest, as_json)


@app.command()
def search(
    directory: IndexDir,
    queries: Annotated[list[str], typer.Argument(metavar="QUERY", help="One or more queries.")],
    k: Annotated[
        int, typer.Option("-k", "--k", "--top-k", "--topk", min=1, help="Passages per query.")
    ] = 3,
    settings: SearchSettings = None,
    as_json: Json = False,
) -> None:
    """Search an index for one or more queries and print the passages.

    An invalid query does not stop the others; the exit code is then 3.
    """
    from tspo_cli.retrieval.index.searcher import open_index

    results = open_index(directory, key_values(settings)).search(queries, k)
    # Arguments that are not valid text have lone surrogates, which cannot be printed.
    queries = [query.encode("utf-8", "replace").decode() for query in queries]
    _print_results(queries, results, as_json)
    failed = sum(result.error is not None for result in results)
    if failed:
        asked = agreeing(len(queries), "query", "queries")
        errors = "its error" if failed == 1 else "their errors"
        raise InvalidInputError(f"{failed:,} of {asked} failed; see {errors}")


def _print_results(queries: list[str], results: list[SearchResult], as_json: bool) -> None:
    if as_json:
        found = []
        for query, result in zip(queries, results, strict=True):
            hits = [
                {"id": hit.id, "title": hit.title, "contents": hit.contents, "score": hit.score}
                for hit in result.hits
            ]
            found.append(
                {"query": query, "hits": hits, **({"error": result.error} if result.error else {})}
            )
        console.result_json({"results": found})
        return
    for query, result in zip(queries, results, strict=True):
        console.result(_one_line(query))
        for rank, hit in enumerate(result.hits, start=1):
            console.result(
                f"  {rank}. {hit.score:.3f}  {hit.id}  {hit.title}\n     {_one_line(hit.text)}"
            )
        if result.error:
            console.result(f"  error: {result.error}")
        elif not result.hits:
            console.result("  no hits")


@app.command()
def info(directory: IndexDir, as_json: Json = False) -> None:
    """Show from which corpus and with which settings an index was built.

    Every file must be there with its size; `tspo index verify` reads the contents too.
    """
    from tspo_cli.config.sections.index_settings import UNRECORDED
    from tspo_cli.retrieval.index.searcher import described_index

    manifest = described_index(directory)
    if as_json:
        console.result_json({"index": str(directory), **manifest, "checked": "sizes"})
        return
    lexical = UNRECORDED["bm25"] if manifest["kind"] in ("bm25", "hybrid") else {}
    size = sum(facts["bytes"] for facts in manifest["files"].values())
    _table(
        {
            "kind": manifest["kind"],
            "passages": manifest["passages"],
            "size": console.byte_size(size),
            "corpus": manifest["corpus"]["path"],
            "sha256": manifest["corpus"]["sha256"],
            **({"encoder": manifest["encoder"]} if manifest["encoder"] else {}),
            **lexical,
            **manifest["parameters"],
        }
    )
    for name, facts in manifest["files"].items():
        console.result(f"  {facts['bytes']:>14,}  {facts['sha256'][:12]}  {name}")
    check = shlex.join(["tspo", "index", "verify", str(directory)])
    console.result(f"sizes are as built, contents were not read; `{check}` checks them")


@app.command()
def verify(directory: IndexDir, as_json: Json = False) -> None:
    """Check an index and its corpus against their digests, and read all of it.

    The exit code is 3 if a file has changed, or a passage, posting or vector is damaged.
    """
    from tspo_cli.retrieval.index.verify_index import verify_index

    found = verify_index(directory)
    if as_json:
        console.result_json({"index": str(directory), "ok": True, **found})
    else:
        corpus = {"same": "the corpus is the same", "absent": "the corpus is missing"}[
            found["corpus"]
        ]
        console.result(f"{directory}: {counted(found['files'], 'file')} as built; {corpus}")


def _done(out: Path, manifest: dict[str, Any], as_json: bool) -> None:
    if as_json:
        console.result_json({"index": str(out), **manifest})
    else:
        console.result(
            f"{out}: {manifest['kind']} index of {counted(manifest['passages'], 'passage')}"
        )


def _readable(name: str, value: Any) -> Any:
    if name.endswith("_bytes"):
        return console.byte_size(value)
    return console.duration(value) if name.endswith("seconds") else value


def _table(lines: dict[str, Any]) -> None:
    width = max(16, *(len(name) + 1 for name in lines))
    for name, value in lines.items():
        console.result(f"{name:<{width}}{value}")


def _one_line(text: str, width: int = 160) -> str:
    line = " ".join(text.encode("utf-8", "replace").decode().split())
    return line if len(line) <= width else line[: width - 1] + "…"
