"""`tspo index`: build a search index, look into it, check it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tspo_cli import console
from tspo_cli.errors import UsageError

app = typer.Typer(help="Build a search index over a corpus, search it, check it.", no_args_is_help=True)

IndexDir = Annotated[Path, typer.Argument(metavar="DIR", help="Index directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command()
def build(
    corpus: Annotated[Path, typer.Argument(help="JSONL (plain or gzip) or parquet: id; contents or title and text.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Directory to write.")],
    kind: Annotated[str, typer.Option(help="bm25 or dense.")] = "bm25",
    encoder: Annotated[str, typer.Option(help="Dense: a sentence-transformers model, by directory or name.")] = "",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="bm25: method, k1, b, stop_words. dense: batch_size, query_prefix, passage_prefix, max_length.",
        ),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an index that is already there.")] = False,
    as_json: AsJson = False,
) -> None:
    """Build an index directory from a corpus."""
    from tspo_cli.retrieval.index import build_index

    chosen = _key_values(settings or [])
    manifest = build_index(corpus, out, kind=kind, encoder=encoder, settings=chosen, overwrite=overwrite)
    if as_json:
        console.result_json({"index": str(out), **manifest})
    else:
        console.result(f"{out}: {manifest['kind']} index of {manifest['passages']} passages")


@app.command()
def search(
    directory: IndexDir,
    queries: Annotated[list[str], typer.Argument(metavar="QUERY...", help="One or more queries.")],
    k: Annotated[int, typer.Option("-k", "--k", min=1, help="Passages per query.")] = 3,
    as_json: AsJson = False,
) -> None:
    """Search an index from the command line."""
    from tspo_cli.retrieval.index import open_index

    results = open_index(directory).search(queries, k)
    if as_json:
        found = [
            {
                "query": query,
                "hits": [{"id": h.id, "title": h.title, "contents": h.contents, "score": h.score} for h in result.hits],
            }
            for query, result in zip(queries, results, strict=True)
        ]
        console.result_json({"results": found})
        return
    for query, result in zip(queries, results, strict=True):
        console.result(query)
        for rank, hit in enumerate(result.hits, start=1):
            console.result(f"  {rank}. {hit.score:.3f}  {hit.id}  {hit.title}\n     {_one_line(hit.text)}")
        if not result.hits:
            console.result("  no hits")


@app.command()
def info(directory: IndexDir, as_json: AsJson = False) -> None:
    """What an index was built from, and how."""
    from tspo_cli.retrieval.index import read_manifest

    manifest = read_manifest(directory)
    if as_json:
        console.result_json({"index": str(directory), **manifest})
        return
    size = sum(facts["bytes"] for facts in manifest["files"].values())
    lines = {
        "kind": manifest["kind"],
        "passages": manifest["passages"],
        "size": f"{size / 1e6:.1f} MB",
        "corpus": manifest["corpus"]["path"],
        "sha256": manifest["corpus"]["sha256"],
        **({"encoder": manifest["encoder"]} if manifest["encoder"] else {}),
        **manifest["parameters"],
    }
    for name, value in lines.items():
        console.result(f"{name:<16}{value}")


@app.command()
def verify(directory: IndexDir, as_json: AsJson = False) -> None:
    """Compute the digests of an index and its corpus again; exit code 3 if anything changed."""
    from tspo_cli.retrieval.index import verify_index

    found = verify_index(directory)
    if as_json:
        console.result_json({"index": str(directory), "ok": True, **found})
    else:
        corpus = {"same": "the corpus is the same", "absent": "the corpus is no longer there"}[found["corpus"]]
        console.result(f"{directory}: {found['files']} files as built; {corpus}")


def _key_values(pairs: list[str]) -> dict[str, object]:
    for pair in pairs:
        if "=" not in pair:
            raise UsageError(f"--set: expected KEY=VALUE, got {pair!r}")
    return {name.strip(): value for name, _, value in (pair.partition("=") for pair in pairs)}


def _one_line(text: str, width: int = 160) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else line[: width - 1] + "…"
