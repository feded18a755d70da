"""What a method is: how a question becomes a task for the agent loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tspo_cli.data.schema import Question
from tspo_cli.retrieval.types import Retriever
from tspo_cli.rollout.agent import Task, request_seed
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.rollout.trajectory import GroupId, Turn


@dataclass(frozen=True, slots=True)
class Setting:
    """What a method may use to build its tasks."""

    protocol: SearchProtocol
    retriever: Retriever | None
    k: int
    seed: int


@dataclass(frozen=True, slots=True)
class Method:
    """`tasks` builds one task per question; `searches` says whether the model may search during its turns and
    `retrieves` whether the method needs a retriever at all."""

    name: str
    tasks: Callable[[Sequence[Question], Setting], list[Task]]
    searches: bool
    retrieves: bool


def make_task(
    question: Question, prompt_ids: Sequence[int], seed: int, *, prefill: str = "", earlier: tuple[Turn, ...] = ()
) -> Task:
    """The evaluation task of one question: one sample, draw 0."""
    group = GroupId(question.data_source, question.id, 0)
    return Task(question, group, 0, tuple(prompt_ids), request_seed(seed, group, 0), prefill, earlier)
