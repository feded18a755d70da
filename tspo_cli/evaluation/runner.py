"""Answer questions with a method and score every item."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tspo_cli.config.schema import Config
from tspo_cli.data.question import Question
from tspo_cli.errors import UsageError
from tspo_cli.evaluation.item_record import ItemRecord
from tspo_cli.evaluation.methods import Method
from tspo_cli.evaluation.methods.method import make_tasks
from tspo_cli.evaluation.metrics import item_record
from tspo_cli.retrieval.types import Hit, Retriever
from tspo_cli.rollout.agent import AgentSettings, Task, run_agents
from tspo_cli.rollout.engines.engine_protocol import Engine, Sampling
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.rollout.trajectory import Trajectory
from tspo_cli.runs import items_file, scores_file, write_json, write_jsonl_gz

SEARCH_BATCH = 256


def evaluate_items(
    questions: Sequence[Question],
    method: Method,
    engine: Engine,
    retriever: Retriever | None,
    protocol: SearchProtocol,
    config: Config,
    on_item: Callable[[ItemRecord, float], None] | None = None,
) -> list[ItemRecord]:
    """One record per question (see `item_record`), in the order of `questions`.

    Sampling is config.eval's (greedy by default), prompt and budget are config.rollout's. `on_item`
    gets every record when it is ready, and the seconds from the first prompt to the last token of
    its trajectory.

    Raises:
        UsageError: the method retrieves and there is no retriever.
    """
    if method.retrieves and retriever is None:
        raise UsageError(
            f"method {method.name} needs passages; give --index DIR or --retriever URL"
        )
    rollout, k = config.rollout, config.retriever.k
    protocol = method.dress(protocol)
    tasks = make_tasks(
        method,
        questions,
        protocol,
        retriever,
        k=k,
        max_searches=rollout.max_searches,
        max_prompt_tokens=rollout.max_prompt_tokens,
        seed=config.seed,
    )
    yardstick = dict(
        zip((one.key for one in questions), _question_hits(questions, retriever, k), strict=True)
    )
    started: dict[str, float] = {}
    records: dict[str, ItemRecord] = {}

    def start(task: Task) -> None:
        started[task.question.key] = time.monotonic()

    def finish(trajectory: Trajectory) -> None:
        key = trajectory.question.key
        records[key] = item_record(trajectory, yardstick[key])
        if on_item is not None:
            on_item(records[key], time.monotonic() - started[key])

    settings = AgentSettings(
        sampling=Sampling(
            temperature=config.eval.temperature,
            top_p=rollout.top_p,
            top_k=rollout.top_k,
            max_new_tokens=rollout.max_new_tokens,
            stop=protocol.stop,
        ),
        max_searches=method.budget(rollout.max_searches),
        k=k,
        in_flight=config.eval.batch_size,
        turn_deadline=rollout.turn_deadline,
        trajectory_deadline=rollout.trajectory_deadline,
    )
    run_agents(tasks, engine, retriever, protocol, settings, finish, start)
    return [records[one.key] for one in questions]


def _question_hits(
    questions: Sequence[Question], retriever: Retriever | None, k: int
) -> list[tuple[Hit, ...] | None]:
    """What the bare questions retrieve; None for a question whose search failed, and without a
    retriever.
    """
    if retriever is None:
        return [None] * len(questions)
    hits: list[tuple[Hit, ...] | None] = []
    for start in range(0, len(questions), SEARCH_BATCH):
        results = retriever.search(
            [one.question for one in questions[start : start + SEARCH_BATCH]], k
        )
        hits += [None if result.error is not None else result.hits for result in results]
    return hits


def write_evaluation(folder: Path, scores: dict[str, Any], items: Sequence[ItemRecord]) -> None:
    """`<dataset>.json` and `<dataset>.items.jsonl.gz` in `folder`, the items first."""
    write_jsonl_gz(items_file(folder, scores["dataset"]), items)
    write_json(scores_file(folder, scores["dataset"]), scores)
