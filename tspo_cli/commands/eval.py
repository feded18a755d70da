"""`tspo eval`: evaluate a policy or a prompting method on question sets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from tspo_cli.commands.options import (
    Json,
    Overwrite,
    Settings,
    check_folder,
    find_inputs,
    say_what_is_opened,
)
from tspo_cli.console import result, result_json, say, width
from tspo_cli.errors import GateError, UsageError


def evaluate(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL_OR_RUN", help="Model directory, or a run, whose model/ is used."
        ),
    ],
    more: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILE_OR_NAME", help="More question files or data sets."),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data", metavar="FILE_OR_NAME", help="Question file or data set. Repeatable."
        ),
    ] = None,
    index: Annotated[
        Path | None, typer.Option(help="Index directory, searched in this process.")
    ] = None,
    retriever: Annotated[
        list[str] | None,
        typer.Option(metavar="URL,...", help="Base URLs of /retrieve servers: replicas or shards."),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help=(
                "search_r1 (the agent), direct, cot, rag, ircot, search_o1, iter_retgen or "
                "tool_call."
            )
        ),
    ] = "search_r1",
    answer: Annotated[
        str | None,
        typer.Option(
            metavar="auto|tags|reply",
            help=(
                "How the reply of direct, cot, rag, ircot and iter_retgen is read: in tags where "
                "there are any, only in tags, or always whole. Default: auto."
            ),
        ),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="OpenAI-compatible server of MODEL, e.g. http://127.0.0.1:8000/v1.",
        ),
    ] = None,
    revision: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Branch, tag or commit of a hub MODEL."),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=0, help="Only the first questions of each set. 0: all.")
    ] = 0,
    sample: Annotated[
        int,
        typer.Option(
            min=0, help="Only this many random questions of each set, see --seed. 0: all."
        ),
    ] = 0,
    seed: Annotated[
        int | None,
        typer.Option(min=0, help="Seed of the sample and of sampled tokens. Default: 0."),
    ] = None,
    fail_under: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[METRIC=]SHARE",
            help="Exit with code 6 if a data set scores less, e.g. em=0.3. Repeatable.",
        ),
    ] = None,
    settings: Settings = None,
    out: Annotated[
        Path | None,
        typer.Option(
            callback=check_folder,
            help="Folder for scores and items. Default: evals/<model>-<method>.",
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the evaluation in the folder.")
    ] = False,
    retry_refused: Annotated[
        bool,
        typer.Option(
            "--retry-refused",
            help="With --resume: ask refused questions again, and a judge that gave no verdict.",
        ),
    ] = False,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Evaluate a policy or a prompting method on question sets.

    Every question is kept with its scores and its trajectory. Decoding is greedy unless --set
    eval.temperature changes it. Prompt, search budget and k are those of the model's training (its
    tspo_agent.json), else the defaults; change them with, for example, --set
    rollout.max_searches=2. Every method uses the same model, retriever, budget and limits.

    --resume continues an interrupted evaluation and gives the same bytes. --set
    eval.batch_size=128 answers more questions at once.

    The model runs in this process; --set rollout.engine=vllm uses vLLM. To evaluate a hosted model:
    tspo eval NAME --endpoint URL --set endpoint.api=chat. To add an LLM judge: --set judge.url=URL
    --set judge.model=NAME.
    """
    names = [*(data or []), *(more or [])]
    if not names:
        raise UsageError("name at least one question file: --data FILE_OR_NAME")
    if index is not None and retriever:
        raise UsageError("--index and --retriever exclude each other")
    gates = [_gate(text) for text in fail_under or []]
    served = endpoint or any(setting.startswith("endpoint") for setting in settings or ())
    find_inputs(
        model_or_run="" if served else model,
        data=names,
        index=str(index) if index else "",
    )
    passages = [str(index)] if index else retriever or []
    say_what_is_opened("" if served else model, [*names, *passages])
    from tspo_cli.evaluation.standalone import EvaluationRequest, evaluate_model
    from tspo_cli.evaluation.summary import score_names

    known = score_names()
    for metric, minimum in gates:
        if metric not in known:
            raise UsageError(
                f"--fail-under {metric}={minimum:g}: no score has that name; choose one of "
                f"{', '.join(sorted(known))}"
            )
    request = EvaluationRequest(
        model=model,
        data=tuple(names),
        method=method,
        index=index,
        urls=tuple(retriever or ()),
        limit=limit,
        sample=sample,
        settings=(
            *(() if seed is None else (f"seed={seed}",)),
            *(() if answer is None else (f"eval.answer={answer}",)),
            *(() if revision is None else (f'model.revision="{revision}"',)),
            *(() if endpoint is None else (f"endpoint.url={endpoint}",)),
            *(settings or ()),
        ),
        out=out,
        resume=resume,
        overwrite=overwrite,
        retry_refused=retry_refused,
    )
    outcome = evaluate_model(request)
    say(f"scores and trajectories: {outcome.folder}")
    if json:
        average = {"average": outcome.average} if outcome.average else {}
        results = [
            scores | {"latency": outcome.latency[scores["dataset"]]} for scores in outcome.results
        ]
        result_json({"results": results, **average, "out": str(outcome.folder)})
    else:
        from tspo_cli.reporting.tables.evaluation_table import scores_table

        rest = f"{outcome.folder}/*.json"
        result(scores_table(outcome.results, outcome.average, width=width(), rest=rest))
    _check_gates(gates, outcome.results)


def _gate(text: str) -> tuple[str, float]:
    """`em=0.3`, or `0.3` alone for em."""
    metric, _, share = text.rpartition("=")
    try:
        minimum = float(share)
    except ValueError:
        minimum = math.nan
    if math.isnan(minimum):
        raise UsageError(f"--fail-under {text}: expected [METRIC=]SHARE, such as em=0.3")
    return metric or "em", minimum


def _check_gates(gates: Sequence[tuple[str, float]], results: Sequence[dict[str, Any]]) -> None:
    for metric, minimum in gates:
        for scores in results:
            value = scores.get(metric)
            if not isinstance(value, int | float):
                raise UsageError(
                    f"--fail-under {metric}={minimum:g}: {scores['dataset']} has no score of that "
                    "name"
                )
            if value < minimum:
                raise GateError(
                    f"{scores['dataset']}: {metric} is {value:.4g}, below --fail-under {minimum:g}"
                )
