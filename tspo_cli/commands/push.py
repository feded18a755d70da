"""`tspo index push`: upload a corpus to a Qdrant collection."""

from __future__ import annotations

from typing import Annotated

import typer

from tspo_cli import console
from tspo_cli.commands.index import Corpora, EncoderName, SkipDuplicates
from tspo_cli.commands.options import Json, key_values
from tspo_cli.console import counted
from tspo_cli.errors import UsageError


def push(
    corpus: Corpora,
    url: Annotated[
        str, typer.Option(help="URL of the Qdrant server; its key comes from $QDRANT_API_KEY.")
    ],
    collection: Annotated[str, typer.Option(help="Collection to make.")],
    kind: Annotated[str, typer.Option(help="sparse (BM25) or dense.")] = "sparse",
    encoder: EncoderName = "",
    passage_prefix: Annotated[
        str | None, typer.Option(help="Dense: short for --set passage_prefix=TEXT.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set how passages are made and encoded. Both kinds: chunk_tokens, chunk_overlap. "
            "sparse: k1, b, tokens, min_word. dense: passage_prefix (by default the encoder's "
            "own), max_length, batch_size, batch_tokens, dtype, device. Repeatable.",
        ),
    ] = None,
    skip_duplicates: SkipDuplicates = False,
    as_json: Json = False,
) -> None:
    """Upload a corpus to a Qdrant collection, for retriever.qdrant."""
    if kind not in ("sparse", "dense"):
        raise UsageError(f"--kind: expected sparse or dense, got {kind!r}")
    if (kind == "dense") != bool(encoder):
        raise UsageError("--kind dense and --encoder belong together")
    from tspo_cli.retrieval.remote.qdrant_upload import push_corpus

    given = {} if passage_prefix is None else {"passage_prefix": passage_prefix}
    count = push_corpus(
        url,
        collection,
        corpus,
        kind=kind,
        encoder=encoder,
        settings={**given, **key_values(settings)},
        skip_duplicates=skip_duplicates,
    )
    if as_json:
        console.result_json({"url": url, "collection": collection, "kind": kind, "passages": count})
    else:
        console.result(f"{collection}: {counted(count, 'passage')} at {url}")
