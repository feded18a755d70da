"""Answer questions with a method and score every item."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tspo_cli.config.context import context_length
from tspo_cli.config.schema import Config
from tspo_cli.console import counted
from tspo_cli.data.question import Question
from tspo_cli.errors import InvalidInputError, UsageError
from tspo_cli.evaluation.item_record import ItemRecord
from tspo_cli.evaluation.methods import Method
from tspo_cli.evaluation.methods.plain import answer_from
from tspo_cli.evaluation.metrics import item_record
from tspo_cli.record_digests import changing
from tspo_cli.retrieval.types import Hit, Retriever, SearchResult
from tspo_cli.rollout.agent import (
    Agent,
    AgentSettings,
    RolloutHooks,
    Task,
    run_agents,
)
from tspo_cli.rollout.engines.engine_protocol import Engine, Sampling
from tspo_cli.rollout.prompt_length import fitted
from tspo_cli.rollout.protocol import RolloutState, SearchProtocol
from tspo_cli.rollout.trajectory import GroupId, Trajectory, Turn, request_seed
from tspo_cli.runs import items_file, scores_file, write_json, write_jsonl_gz

SEARCH_BATCH = 256


@dataclass(frozen=True, slots=True)
class EvalSetup:
    """What answers the questions. `protocol` is an instance of the method's protocol class.

    `config.eval` has the sampling (greedy by default) and the batch size, `config.rollout` the
    prompt and the search budget.
    """

    method: Method
    protocol: SearchProtocol
    engine: Engine
    retriever: Retriever | None
    config: Config


def evaluate_items(
    questions: Sequence[Question],
    setup: EvalSetup,
    on_item: Callable[[ItemRecord, float], None] | None = None,
) -> list[ItemRecord]:
    """Answer and score the questions. The result has one record per question, in their order.

    `on_item` is called with every finished record and its seconds from the first prompt to the last
    token.

    Raises:
        UsageError: the method needs a retriever and there is none.
    """
    method, retriever, config = setup.method, setup.retriever, setup.config
    if method.retrieves and retriever is None:
        raise UsageError(
            f"method {method.name} needs passages; give --index DIR or --retriever URL"
        )
    rollout, k = config.rollout, config.retriever.k
    tasks = _make_tasks(questions, setup)
    keys = [question.key for question in questions]
    question_hits = dict(zip(keys, _question_hits(questions, retriever, k), strict=True))
    started: dict[str, float] = {}
    records: dict[str, ItemRecord] = {}

    def start(task: Task) -> None:
        started[task.question.key] = time.monotonic()

    whole = dict(zip(keys, questions, strict=True))

    def finish(trajectory: Trajectory) -> None:
        key = trajectory.question.key
        cut_prompt = trajectory.question != whole[key]
        trajectory = replace(trajectory, question=whole[key])
        records[key] = item_record(
            trajectory,
            question_hits[key],
            answer_from=answer_from(setup.protocol, trajectory),
            given_turns=int(method.search_first),
            calls_tools=bool(method.tools),
            credit=config.credit,
        )
        if cut_prompt:
            records[key]["cut_prompt"] = True
        if on_item is not None:
            on_item(records[key], time.monotonic() - started[key])

    settings = AgentSettings(
        sampling=Sampling(
            temperature=config.eval.temperature,
            top_p=rollout.top_p,
            top_k=rollout.top_k,
            max_new_tokens=rollout.max_new_tokens,
            stop=setup.protocol.stop_strings,
            stop_outside=setup.protocol.stop_outside,
            opened=setup.protocol.opens_thought,
        ),
        max_searches=method.budget(rollout.max_searches),
        k=k,
        in_flight=config.eval.batch_size,
        turn_deadline=rollout.turn_deadline,
        trajectory_deadline=rollout.trajectory_deadline,
        connections=config.retriever.concurrency,
        max_invalid_turns=rollout.max_invalid_turns,
        exclude_seen=rollout.exclude_seen,
    )
    agent = Agent(setup.engine, retriever, setup.protocol, settings)
    run_agents(tasks, agent, RolloutHooks(on_start=start, on_finish=finish))
    return [records[key] for key in keys]


def _make_tasks(questions: Sequence[Question], setup: EvalSetup) -> list[Task]:
    """One task per question. It starts with the passages for the question if the method searches
    first. A question whose prompt is too long is cut.

    Raises:
        InvalidInputError: the context does not hold a prompt and one reply.
    """
    method, protocol, config = setup.method, setup.protocol, setup.config
    may_search = method.budget(config.rollout.max_searches) > 0
    first_turns: list[tuple[Turn, ...]] = [()] * len(questions)
    if method.search_first and setup.retriever is not None:
        texts = [question.question for question in questions]
        results = setup.retriever.search(texts, config.retriever.k)
        first_turns = [
            (_first_turn(question, result, protocol),)
            for question, result in zip(questions, results, strict=True)
        ]
    tasks = []
    for question, turns in zip(questions, first_turns, strict=True):
        question = fitted(question, protocol, config.rollout.max_prompt_tokens)
        prompt = tuple(protocol.context(RolloutState(question, turns, may_search), ()))
        _check_room(question, len(prompt), config)
        group = GroupId(question.data_source, question.id, 0)
        seed = request_seed(config.seed, group, 0)
        tasks.append(Task(question, group, 0, prompt, seed, protocol.prefill, turns))
    return tasks


def _check_room(question: Question, tokens: int, config: Config) -> None:
    """Refuse a prompt after which the context has no room for a reply. The context of an endpoint
    is known if model.max_context is set.
    """
    context, reply = context_length(config), config.rollout.max_new_tokens
    if tokens + reply > context and (config.model.max_context or not config.endpoint.url):
        raise InvalidInputError(
            f"question {question.id!r}: its prompt of {counted(tokens, 'token')} and a reply of "
            f"{reply} (rollout.max_new_tokens) do not fit into a context of {context}; set "
            f"model.max_context={tokens + reply}, or lower rollout.max_observation_tokens"
        )


def _first_turn(question: Question, result: SearchResult, protocol: SearchProtocol) -> Turn:
    """A search turn that the model did not write: the question as the query."""
    return Turn(
        action_ids=(),
        logprobs=(),
        finish_reason="stop",
        kind="search",
        text="",
        query=question.question,
        hits=result.hits,
        feedback=protocol.observation(result.hits)[0],
        search_error=result.error,
    )


def _question_hits(
    questions: Sequence[Question], retriever: Retriever | None, k: int
) -> list[tuple[Hit, ...] | None]:
    """The hits of one search with each question as the query. None if the search failed or there is
    no retriever.
    """
    if retriever is None:
        return [None] * len(questions)
    hits: list[tuple[Hit, ...] | None] = []
    for start in range(0, len(questions), SEARCH_BATCH):
        batch = questions[start : start + SEARCH_BATCH]
        results = retriever.search([question.question for question in batch], k)
        hits += [None if result.error is not None else result.hits for result in results]
    return hits


def write_evaluation(folder: Path, scores: dict[str, Any], items: Sequence[ItemRecord]) -> None:
    """`<dataset>.json` and `<dataset>.items.jsonl.gz` in `folder`, the items first."""
    answered, scored = (path(folder, scores["dataset"]) for path in (items_file, scores_file))
    with changing(answered, scored):
        write_jsonl_gz(answered, items)
        write_json(scored, scores)
