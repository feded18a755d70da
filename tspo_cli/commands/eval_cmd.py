"""`tspo eval`: a policy, with its search protocol or another method, on question sets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tspo_cli.commands.options import Json, Overwrite, Settings
from tspo_cli.console import result, result_json, say
from tspo_cli.errors import UsageError


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL_OR_RUN", help="Model directory, or a run (its model/).")],
    more: Annotated[list[str] | None, typer.Argument(metavar="[FILE_OR_NAME]...", help="More --data.")] = None,
    data: Annotated[
        list[str] | None, typer.Option("--data", metavar="FILE_OR_NAME", help="Question file or data set. Repeatable.")
    ] = None,
    index: Annotated[Path | None, typer.Option(help="Index directory, searched in this process.")] = None,
    retriever: Annotated[
        list[str] | None, typer.Option(metavar="URL,...", help="Base URLs of /retrieve servers, equal ones or shards.")
    ] = None,
    method: Annotated[str, typer.Option(help="search_r1 (the agent), direct or rag.")] = "search_r1",
    limit: Annotated[int, typer.Option(min=0, help="First questions of each set. 0: all.")] = 0,
    settings: Settings = None,
    out: Annotated[Path | None, typer.Option(help="Folder of scores and items. [evals/<model>-<method>]")] = None,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Evaluate a policy on question sets; every item is kept with its trajectory.

    Greedy unless --set eval.temperature says otherwise. Prompt, search budget and k are those the model was trained
    with (its tspo_agent.json), else the defaults; --set rollout.max_searches=2 and the like change them.
    Methods: search_r1 is the agent with its searches, direct answers without retrieval, rag searches once.
    """
    names = [*(data or []), *(more or [])]
    if not names:
        raise UsageError("name at least one question file: --data FILE_OR_NAME")
    if index is not None and retriever:
        raise UsageError("--index and --retriever exclude each other")
    from tspo_cli.evaluation.standalone import evaluate_model

    folder, results = evaluate_model(
        model,
        names,
        index=index,
        urls=retriever or [],
        method_name=method,
        limit=limit,
        settings=settings or [],
        out=out,
        overwrite=overwrite,
    )
    say(f"every item with its trajectory: {folder}")
    if json:
        result_json({"results": results, "out": str(folder)})
        return
    from tspo_cli.reporting.scores import scores_table

    result(scores_table(results))
