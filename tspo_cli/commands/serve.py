"""`tspo serve`: an index over HTTP."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tspo_cli import console


def serve(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Index directory.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    k: Annotated[int, typer.Option("--k", min=1, help="Passages per query where a request does not say.")] = 3,
    max_k: Annotated[int, typer.Option(min=1, help="Most passages per query that a request may ask for.")] = 100,
    max_queries: Annotated[int, typer.Option(min=1, help="Most queries in one request.")] = 1024,
    as_json: Annotated[bool, typer.Option("--json", help="Print address and index as JSON once listening.")] = False,
) -> None:
    """Serve an index over HTTP: POST /retrieve, GET /healthz. Stop with Ctrl-C or SIGTERM."""
    from tspo_cli.retrieval.service import create_app, listen, run_server

    # The port comes first: a large index takes minutes to load, and a port in use should not.
    with listen(host, port) as bound:
        from tspo_cli.retrieval.index import open_index

        retriever = open_index(directory)
        app = create_app(retriever, default_k=k, max_k=max(k, max_k), max_queries=max_queries)
        url = f"http://{f'[{host}]' if ':' in host else host}:{bound.getsockname()[1]}"
        passages = retriever.manifest["passages"]

        def ready() -> None:
            console.say(f"serving {directory} ({passages} passages) on {url}/retrieve; stop with Ctrl-C")
            if as_json:
                console.result_json({"url": url, "index": str(directory), "passages": passages, "k": k})

        run_server(app, bound, ready)
