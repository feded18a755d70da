"""`tspo serve`: an index over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tspo_cli import console
from tspo_cli.commands.options import Json, SearchSettings, key_values
from tspo_cli.console import counted
from tspo_cli.errors import UsageError


def serve(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Index directory.")],
    host: Annotated[
        str,
        typer.Option(
            help="Address to listen on. An address that other machines reach needs a token."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    token_file: Annotated[
        str,
        typer.Option(
            metavar="FILE", help="File with the bearer token. Default: $TSPO_RETRIEVER_TOKEN."
        ),
    ] = "",
    k: Annotated[
        int, typer.Option("--k", min=1, help="Passages per query, if a request has no topk.")
    ] = 3,
    max_k: Annotated[
        int, typer.Option(min=1, help="Most passages per query that a request may ask for.")
    ] = 100,
    max_queries: Annotated[int, typer.Option(min=1, help="Most queries in one request.")] = 1024,
    max_query_chars: Annotated[
        int, typer.Option(min=1, help="Longest query in characters.")
    ] = 32_768,
    max_body_mb: Annotated[
        float, typer.Option(min=0.001, max=1e6, help="Largest request body (MB).")
    ] = 8,
    max_batch: Annotated[int, typer.Option(min=1, help="Most queries searched at once.")] = 256,
    max_waiting: Annotated[
        int, typer.Option(min=1, help="Queries that may wait; beyond it: status 429.")
    ] = 8192,
    max_wait: Annotated[
        float,
        typer.Option(min=0.01, max=1e6, help="Seconds a query may wait; beyond it: status 429."),
    ] = 30,
    cache_mb: Annotated[
        float,
        typer.Option(
            min=0, max=1e9, help="Memory (MB) that caches results of repeated queries. 0: none."
        ),
    ] = 256,
    settings: SearchSettings = None,
    as_json: Json = False,
) -> None:
    """Serve an index over HTTP.

    The server answers POST /retrieve and GET /healthz, /readyz and /metrics. Ctrl-C or SIGTERM
    stops it. With --json it prints its address and its index as JSON as soon as it listens.
    """
    from tspo_cli.retrieval.server.listen import is_loopback, listen, run_server
    from tspo_cli.text.access_token import RETRIEVER_TOKEN, read_token

    token, search_settings = read_token(RETRIEVER_TOKEN, token_file), key_values(settings)
    # Bind the port first: loading a large index takes minutes, an error of the port should not.
    with listen(host, port) as bound:
        if not token and not is_loopback(bound):
            raise UsageError(
                f"--host {host}: other machines can reach this address; give --token-file FILE or "
                f"set {RETRIEVER_TOKEN}"
            )
        from tspo_cli.retrieval.index.searcher import open_index
        from tspo_cli.retrieval.manifest import read_manifest
        from tspo_cli.retrieval.server.http_app import ServiceSettings, create_app

        passages = read_manifest(directory)["passages"]
        limits = ServiceSettings(
            default_k=k,
            max_k=max(k, max_k),
            max_queries=max_queries,
            max_query_chars=max_query_chars,
            max_body=int(max_body_mb * 2**20),
            max_batch=max_batch,
            max_waiting=max(max_waiting, max_queries),
            max_wait=max_wait,
            cache_bytes=int(cache_mb * 2**20),
            token=token,
        )
        url = f"http://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}"

        def ready() -> None:
            console.say(
                f"serving {directory} ({counted(passages, 'passage')}) on {url}/retrieve; "
                f"stop with Ctrl-C"
            )
            if as_json:
                console.result_json(
                    {"url": url, "index": str(directory), "passages": passages, "k": k}
                )

        run_server(create_app(lambda: open_index(directory, search_settings), limits), bound, ready)
