"""`tspo index push`: upload a corpus to a Qdrant collection."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tspo_cli import console
from tspo_cli.commands.options import Json
from tspo_cli.errors import UsageError


def push(
    corpus: Annotated[
        Path,
        typer.Argument(help="JSONL (plain or gzip) or parquet: id; contents or title and text."),
    ],
    url: Annotated[
        str, typer.Option(help="URL of the Qdrant server; its key comes from $QDRANT_API_KEY.")
    ],
    collection: Annotated[str, typer.Option(help="Collection to make.")],
    kind: Annotated[str, typer.Option(help="sparse (BM25) or dense.")] = "sparse",
    encoder: Annotated[
        str, typer.Option(help="Dense: a sentence-transformers model, by directory or name.")
    ] = "",
    passage_prefix: Annotated[
        str, typer.Option(help="Dense: what the encoder expects before a passage.")
    ] = "",
    tokens: Annotated[
        str, typer.Option(help="Sparse: words, ngrams (text without spaces) or auto.")
    ] = "auto",
    min_word: Annotated[
        int, typer.Option(min=1, help="Sparse: letters of the shortest word that is kept.")
    ] = 2,
    as_json: Json = False,
) -> None:
    """Upload a corpus to a Qdrant collection, for retriever.qdrant."""
    if kind not in ("sparse", "dense"):
        raise UsageError(f"--kind: expected sparse or dense, got {kind!r}")
    if (kind == "dense") != bool(encoder):
        raise UsageError("--kind dense and --encoder belong together")
    from tspo_cli.data.readers import read_passages
    from tspo_cli.retrieval.remote.qdrant import load_encoder, open_client, push_dense, push_sparse
    from tspo_cli.retrieval.search_settings import index_settings

    lexical = index_settings("bm25", {"tokens": tokens, "min_word": min_word}).bm25
    assert lexical is not None
    client = open_client(url, timeout=60)
    with console.progress("uploading passages", None) as advance:
        if kind == "sparse":
            count = push_sparse(client, collection, lambda: read_passages(corpus), lexical, advance)
        else:
            encode = load_encoder(encoder)
            count = push_dense(
                client, collection, lambda: read_passages(corpus), encode, passage_prefix, advance
            )
    if as_json:
        console.result_json({"url": url, "collection": collection, "kind": kind, "passages": count})
    else:
        console.result(f"{collection}: {count} passages at {url}")
