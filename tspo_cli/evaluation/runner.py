"""Answer questions with a method, score every item, keep every trajectory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tspo_cli.config.schema import Config
from tspo_cli.data.readers import default_data_source, read_questions, resolve_data
from tspo_cli.data.schema import Question
from tspo_cli.errors import UsageError
from tspo_cli.evaluation.methods import Method
from tspo_cli.evaluation.methods.base import Setting
from tspo_cli.evaluation.metrics import item_record
from tspo_cli.retrieval.types import Retriever
from tspo_cli.rollout.agent import AgentSettings, Task, run_agents
from tspo_cli.rollout.engines.base import Engine, Sampling
from tspo_cli.rollout.protocol import STOP, SearchProtocol
from tspo_cli.rollout.trajectory import Trajectory
from tspo_cli.runs import write_json, write_jsonl_gz

SEARCH_BATCH = 256


def read_eval_sets(names: Sequence[str], limit: int) -> dict[str, list[Question]]:
    """Questions by data set name (the file's name, or its folder's), the first `limit` of each (0: all).

    Raises:
        UsageError: two files would have the same name in the results.
    """
    sets: dict[str, list[Question]] = {}
    for name in names:
        path = resolve_data(name)
        dataset = default_data_source(path)
        if dataset in sets:
            dataset = f"{dataset}_{path.name.split('.')[0]}"
        if dataset in sets:
            raise UsageError(f"--data: {path} and another file are both called {dataset!r}; rename one")
        sets[dataset] = read_questions(path, limit=limit)
    return sets


def evaluate_items(
    questions: Sequence[Question],
    method: Method,
    engine: Engine,
    retriever: Retriever | None,
    protocol: SearchProtocol,
    config: Config,
    on_item: Callable[[Trajectory], None] | None = None,
) -> list[dict[str, Any]]:
    """One record per question (see `item_record`), in the order of `questions`.

    Sampling is config.eval's (greedy by default), prompt and budget are config.rollout's.

    Raises:
        UsageError: the method retrieves and there is no retriever.
    """
    if method.retrieves and retriever is None:
        raise UsageError(f"method {method.name} needs passages; give --index DIR or --retriever URL")
    rollout = config.rollout
    setting = Setting(protocol, retriever, config.retriever.k, config.seed)
    tasks = [_cut_prompt(task, rollout.max_prompt_tokens) for task in method.tasks(questions, setting)]
    settings = AgentSettings(
        sampling=Sampling(
            temperature=config.eval.temperature,
            top_p=rollout.top_p,
            top_k=rollout.top_k,
            max_new_tokens=rollout.max_new_tokens,
            stop=STOP,
        ),
        max_searches=rollout.max_searches if method.searches else 0,
        k=config.retriever.k,
        in_flight=config.eval.batch_size,
        turn_deadline=rollout.turn_deadline,
    )
    trajectories = run_agents(tasks, engine, retriever, protocol, settings, on_item)
    yardstick = _question_hits(questions, retriever, config.retriever.k)
    return [item_record(one, hits) for one, hits in zip(trajectories, yardstick, strict=True)]


def _question_hits(questions: Sequence[Question], retriever: Retriever | None, k: int) -> list[Any]:
    """What the bare questions retrieve; None for a question whose search failed."""
    if retriever is None:
        return [None] * len(questions)
    hits: list[Any] = []
    for start in range(0, len(questions), SEARCH_BATCH):
        results = retriever.search([one.question for one in questions[start : start + SEARCH_BATCH]], k)
        hits += [None if result.error is not None else result.hits for result in results]
    return hits


def _cut_prompt(task: Task, limit: int) -> Task:
    """Keep the end of a prompt that is too long: the question stands there."""
    if len(task.prompt_ids) <= limit:
        return task
    return Task(task.question, task.group, task.sample, task.prompt_ids[-limit:], task.seed, task.prefill, task.earlier)


def write_evaluation(folder: Path, scores: dict[str, Any], items: Sequence[dict[str, Any]]) -> None:
    """`<dataset>.json` and `<dataset>.items.jsonl.gz` in `folder`, the items first."""
    name = scores["dataset"].replace(os.sep, "_")
    write_jsonl_gz(folder / f"{name}.items.jsonl.gz", items)
    write_json(folder / f"{name}.json", scores)
