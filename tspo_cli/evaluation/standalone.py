"""Evaluate a model: what `tspo eval` does."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from tspo_cli.arithmetic import compute_portably
from tspo_cli.config.layers import Layer
from tspo_cli.config.load_config import load_config
from tspo_cli.config.rules import portable_problems
from tspo_cli.config.schema import Config
from tspo_cli.config.sections.agent_defaults import AGENT_FILE, read_agent_file, same_agent
from tspo_cli.config.tables import flatten
from tspo_cli.config.unused_settings import unused_in_evaluation
from tspo_cli.console import warn
from tspo_cli.data.question import Question
from tspo_cli.environment import environment
from tspo_cli.errors import InvalidInputError, UsageError
from tspo_cli.evaluation.answering.open_engine import OpenedEngine, open_engine
from tspo_cli.evaluation.answering.worker_messages import Job
from tspo_cli.evaluation.answering.workers import Workers, open_workers, opened_elsewhere
from tspo_cli.evaluation.item_record import ItemRecord
from tspo_cli.evaluation.judging.judge import open_judge
from tspo_cli.evaluation.methods import Method, find_method
from tspo_cli.evaluation.methods.examples import Example, read_examples
from tspo_cli.evaluation.resuming.results_folder import require_its_sets, results_folder
from tspo_cli.evaluation.session import Session
from tspo_cli.evaluation.sets import read_eval_sets, shared_questions
from tspo_cli.evaluation.summary import averages
from tspo_cli.not_a_run import model_directory
from tspo_cli.packages import require_packages
from tspo_cli.record_digests import forget_digests
from tspo_cli.retrieval.open_retriever import open_retriever
from tspo_cli.rollout.records import read_items
from tspo_cli.runs import (
    EVAL_SUMMARY_NAME,
    MODEL_NAME,
    command_line,
    items_file,
    scores_file,
    write_json,
)
from tspo_cli.text.secrets import values_without_secrets


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """What to evaluate, and where to write it.

    `limit` keeps only the first questions of each data set, `sample` only a random sample; 0: all.
    `settings` are KEY=VALUE of an experiment. `resume` continues an evaluation in `out`,
    `overwrite` replaces it. `retry_refused` asks the questions again that the server refused,
    and the judge about answers on which it gave no verdict.
    """

    model: str
    data: tuple[str, ...]
    method: str = "search_r1"
    index: Path | None = None
    urls: tuple[str, ...] = ()
    limit: int = 0
    sample: int = 0
    settings: tuple[str, ...] = ()
    out: Path | None = None
    resume: bool = False
    overwrite: bool = False
    retry_refused: bool = False


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """The scores of an evaluation.

    `results` has the scores of each data set, `average` their averages (empty for a single set),
    `latency` the seconds per question by data set.
    """

    folder: Path
    results: list[dict[str, Any]]
    latency: dict[str, dict[str, float]]
    average: dict[str, Any]


def evaluate_model(request: EvaluationRequest) -> EvaluationResult:
    """Answer and score the questions. Write `<dataset>.json`, `<dataset>.items.jsonl.gz`,
    eval.json and timings.json.

    Except for timings.json, equal models, data and settings give the same bytes, also after
    interruptions.

    Raises:
        MissingResourceError: the model, the data, the index or a package is not here, or the run
            has not exported its model yet.
        InvalidInputError: the folder holds an evaluation and neither `overwrite` nor `resume` is
            set, or an evaluation with other settings; or another process evaluates into it.
    """
    method = find_method(request.method)
    hosted = any(setting.startswith("endpoint.url=") for setting in request.settings)
    model = model_directory(request.model, hosted=hosted)
    with same_agent(str(model)):
        return _evaluated(request, method, eval_config(model, request))


def _evaluated(request: EvaluationRequest, method: Method, config: Config) -> EvaluationResult:
    for problem in portable_problems(config):
        raise InvalidInputError(problem)
    compute_portably(config.train.portable)
    require_packages(config, training=False)
    method.answer_form(config)
    examples = read_examples(Path(config.eval.examples)) if config.eval.examples else ()
    folder = request.out or Path("evals") / f"{_label(request.model)}-{method.name}"
    sets = read_eval_sets(request.data, config.eval.limit, request.sample, config.seed)
    if request.retry_refused and not request.resume:
        raise UsageError("--retry-refused continues an evaluation; add --resume")
    for note in shared_questions(sets):
        warn(note)
    written = {path(folder, name).resolve() for name in sets for path in (scores_file, items_file)}
    for path in (Path(name) for name in request.data if Path(name).resolve() in written):
        raise InvalidInputError(
            f"{path}: is the file that the scores go to; choose another --out, or rename it"
        )
    with results_folder(folder, resume=request.resume, overwrite=request.overwrite) as work:
        require_its_sets(work, sets)
        results, average, latency = _evaluate(request, config, method, examples, sets, work)
    return EvaluationResult(folder, results, latency, average)


def _evaluate(
    request: EvaluationRequest,
    config: Config,
    method: Method,
    examples: tuple[Example, ...],
    sets: dict[str, list[Question]],
    folder: Path,
) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, dict[str, float]]]:
    """Open retriever, judge and model, then answer and score. Returns scores, average, latency."""
    for sentence in unused_in_evaluation(config):
        warn(sentence)
    retriever = open_retriever(config.retriever)
    if method.retrieves and retriever is None:
        raise UsageError(
            f"method {method.name} needs passages; give --index DIR or --retriever URL"
        )
    judge = open_judge(config.judge)
    if judge is not None:
        judge.preflight()
    with _opened(config, method, examples) as (opened, workers):
        if not opened.exact:
            method = method.for_server(opened.kind)
        session = Session(
            folder,
            method,
            config,
            opened,
            retriever,
            judge,
            examples,
            retry_refused=request.retry_refused,
            retry_failed=request.resume,
            workers=workers,
        )
        for warning in session.limit_warnings():
            warn(warning)
        results = [session.dataset(name, questions) for name, questions in sets.items()]
    items = [
        cast("list[ItemRecord]", [*read_items(items_file(folder, name), scores)])
        for name, scores in zip(sets, results, strict=True)
    ]
    average = averages(items) if len(sets) > 1 else {}
    record = {
        "model": config.model.path,
        "method": method.name,
        "command": _command(),
        "results": results,
    }
    if examples:
        record["examples"] = [asdict(example) for example in examples]
    forget_digests(folder / EVAL_SUMMARY_NAME)  # `results_folder` notes the new one
    write_json(
        folder / EVAL_SUMMARY_NAME,
        record
        | {
            "average": average,
            "config": values_without_secrets(config.section_dict()),
            "environment": environment(),
        },
    )
    return results, average, {name: session.latency(name) for name in sets}


@contextmanager
def _opened(
    config: Config, method: Method, examples: tuple[Example, ...]
) -> Iterator[tuple[OpenedEngine, Workers | None]]:
    """The engine, in this process or in eval.processes others."""
    if config.eval.processes == 1:
        yield open_engine(config, method.tools, method.protocol), None
        return
    if config.endpoint.url:
        raise UsageError(
            "eval.processes: a server answers, and no process needs an engine; raise "
            "endpoint.concurrency and eval.batch_size instead"
        )
    with open_workers(Job(config, method.name, examples), config.eval.processes) as workers:
        yield opened_elsewhere(config, workers.facts), workers


def _command() -> str:
    """The command that reproduces these results from the start."""
    return command_line([word for word in sys.argv[1:] if word != "--resume"])


def eval_config(model_dir: Path, request: EvaluationRequest) -> Config:
    """Defaults, changed by the model's training, then by the request, then by its settings."""
    agent = read_agent_file(model_dir)
    retriever = {
        "index": str(request.index) if request.index is not None else "",
        "url": list(request.urls),
    }
    # The training decides the prompt and the budget, not the engine.
    rollout = {key: value for key, value in agent.get("rollout", {}).items() if key != "engine"}
    trained = Layer(str(model_dir / AGENT_FILE), agent | {"rollout": rollout} if agent else {})
    table: dict[str, dict[str, Any]] = {
        "model": {"path": str(model_dir)},
        "retriever": retriever,
        "eval": {"limit": request.limit},
    }
    return load_config([], [*_as_settings(table), *request.settings], cell=trained)


def _as_settings(table: dict[str, dict[str, Any]]) -> list[str]:
    return [f"{name}={_as_toml(value)}" for name, value in flatten(table).items()]


def _as_toml(value: Any) -> str:
    """JSON is TOML if it keeps its characters: TOML knows no halves of surrogate pairs, and no DEL
    as it is.
    """
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _label(model: str) -> str:
    path = Path(model)
    return path.resolve().parent.name if path.name == MODEL_NAME else path.name
