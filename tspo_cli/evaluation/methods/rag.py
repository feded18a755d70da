"""One-shot retrieval: search once with the question itself, then answer."""

from __future__ import annotations

from collections.abc import Sequence

from tspo_cli.data.schema import Question
from tspo_cli.evaluation.methods.base import Method, Setting, make_task
from tspo_cli.retrieval.types import SearchResult
from tspo_cli.rollout.agent import Task
from tspo_cli.rollout.trajectory import Turn


def tasks(questions: Sequence[Question], setting: Setting) -> list[Task]:
    """One prompt per question with its `k` passages; the search is kept as an earlier turn."""
    if setting.retriever is None:
        raise ValueError("rag needs a retriever")
    results = setting.retriever.search([one.question for one in questions], setting.k)
    return [_task(one, result, setting) for one, result in zip(questions, results, strict=True)]


def _task(question: Question, result: SearchResult, setting: Setting) -> Task:
    protocol = setting.protocol
    searched = Turn(
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
    prompt_ids = protocol.rag_ids(question.question, result.hits)
    return make_task(question, prompt_ids, setting.seed, prefill=protocol.style.prefill, earlier=(searched,))


RAG = Method("rag", tasks, searches=False, retrieves=True)
