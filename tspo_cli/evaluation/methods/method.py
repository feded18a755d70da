"""What a method is: how the model is prompted, what it may do, and whether a search comes before
its first word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from tspo_cli.data.question import Question
from tspo_cli.retrieval.types import Hit, Retriever, SearchResult
from tspo_cli.rollout.agent import Task, request_seed
from tspo_cli.rollout.protocol import Moment, SearchProtocol
from tspo_cli.rollout.trajectory import GroupId, Turn


@dataclass(frozen=True, slots=True)
class Method:
    """`protocol` prompts the model and reads what it says. `searches`: the model may cause searches
    during its turns; `search_first`: the question itself is searched before them, out of the same
    budget. `chat_protocol` takes the place of `protocol` where the server keeps the conversation
    (chat API), and may call `tools` there.
    """

    name: str
    protocol: type[SearchProtocol]
    searches: bool
    search_first: bool = False
    chat_protocol: type[SearchProtocol] | None = None
    tools: tuple[Mapping[str, Any], ...] = ()

    @property
    def retrieves(self) -> bool:
        """True when the method needs a retriever."""
        return self.searches or self.search_first

    def for_chat(self) -> Method:
        """The method as it is with a chat API."""
        return replace(self, protocol=self.chat_protocol or self.protocol)

    def dress(self, protocol: SearchProtocol) -> SearchProtocol:
        """The method's protocol with the tokenizer and the options of another one."""
        return self.protocol(**{one.name: getattr(protocol, one.name) for one in fields(protocol)})

    def budget(self, max_searches: int) -> int:
        """Searches that are left to the model's own turns out of `max_searches`."""
        return max(0, max_searches - self.search_first) if self.searches else 0


def make_tasks(
    method: Method,
    questions: Sequence[Question],
    protocol: SearchProtocol,
    retriever: Retriever | None,
    *,
    k: int,
    max_searches: int,
    max_prompt_tokens: int,
    seed: int,
) -> list[Task]:
    """One task per question, with `k` passages for the question where the method searches first. A
    prompt that is too long loses its beginning: the question stands at the end.

    Raises:
        ValueError: the method searches first and there is no retriever.
    """
    earlier: list[tuple[Turn, ...]] = [()] * len(questions)
    if method.search_first:
        if retriever is None:
            raise ValueError(f"{method.name} needs a retriever")
        results = retriever.search([one.question for one in questions], k)
        earlier = [(_first_turn(*pair, protocol),) for pair in zip(questions, results, strict=True)]
    tasks = []
    for question, turns in zip(questions, earlier, strict=True):
        moment = Moment(question, turns, method.budget(max_searches) > 0)
        prompt = tuple(protocol.context(moment, ()))[-max_prompt_tokens:]
        group = GroupId(question.data_source, question.id, 0)
        tasks.append(
            Task(question, group, 0, prompt, request_seed(seed, group, 0), protocol.prefill, turns)
        )
    return tasks


def _first_turn(question: Question, result: SearchResult, protocol: SearchProtocol) -> Turn:
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


def spoken(protocol: SearchProtocol, turn: Turn) -> str:
    """What the model said, without the token that ended its turn."""
    return protocol.decode(turn.action_ids[:-1]) if turn.finish_reason == "eos" else turn.text


def new_hits(turns: Iterable[Turn]) -> list[list[Hit]]:
    """The hits of each search, without those that an earlier search had found."""
    seen: set[str] = set()
    found: list[list[Hit]] = []
    for turn in turns:
        if turn.kind == "search":
            found.append([hit for hit in turn.hits if hit.contents not in seen])
            seen.update(hit.contents for hit in turn.hits)
    return found


def all_passages(protocol: SearchProtocol, turns: Iterable[Turn]) -> str:
    """Every passage found so far, once, each search cut to the observation limit."""
    texts = (
        "\n".join(f"{hit.title}: {hit.text}" for hit in hits).strip()
        for hits in new_hits(turns)
        if hits
    )
    return "\n".join(protocol.cut(text, protocol.max_observation_tokens) for text in texts)
