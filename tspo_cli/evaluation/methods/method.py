"""A method: how the model is prompted, what it may do, and whether a search comes first."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tspo_cli.config.schema import Config
from tspo_cli.errors import InvalidInputError
from tspo_cli.evaluation.methods.examples import Example
from tspo_cli.evaluation.methods.plain import AnswerForm, PlainProtocol
from tspo_cli.models.tokenizer_protocol import Tokenizer
from tspo_cli.retrieval.types import Hit
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.rollout.trajectory import Turn


@dataclass(frozen=True, slots=True)
class Method:
    """A way to answer questions with a language model.

    `protocol` makes the prompts and parses the model's text. `searches`: the model's turns can lead
    to searches. `search_first`: the question itself is the first query, within the same budget.
    `takes_examples`: few-shot examples can be shown before the question.
    `served` has the protocols that replace `protocol` where a server generates texts, by its API.
    With the chat API the server keeps the conversation, and the model may call `tools`.
    """

    name: str
    protocol: type[SearchProtocol]
    searches: bool
    search_first: bool = False
    takes_examples: bool = False
    served: Mapping[str, type[SearchProtocol]] = field(default_factory=dict)
    tools: tuple[Mapping[str, Any], ...] = ()

    @property
    def retrieves(self) -> bool:
        """True when the method needs a retriever."""
        return self.searches or self.search_first

    def for_server(self, api: str) -> Method:
        """The method for a server's `api`, completions or chat."""
        return replace(self, protocol=self.served.get(api, self.protocol))

    @property
    def reads_replies(self) -> bool:
        """True for a baseline whose answer may stand without tags."""
        return issubclass(self.protocol, PlainProtocol)

    def answer_form(self, config: Config) -> AnswerForm:
        """`eval.answer`, which is `tags` for an agent.

        Raises:
            InvalidInputError: the method cannot read answers so, or has no place for examples.
        """
        if not self.reads_replies and config.eval.answer == "reply":
            raise InvalidInputError(
                f"eval.answer=reply: {self.name} is an agent, which acts and answers with tags; "
                "leave it at auto, or choose a baseline such as --method rag"
            )
        if config.eval.examples and not self.takes_examples:
            raise InvalidInputError(
                f"eval.examples: {self.name} has no place for examples; direct, cot and rag have"
            )
        if config.eval.examples and config.eval.answer == "tags":
            raise InvalidInputError(
                "eval.examples: examples answer in plain words; leave eval.answer at auto"
            )
        return config.eval.answer if self.reads_replies else "tags"

    def open(
        self, tokenizer: Tokenizer, config: Config, examples: Sequence[Example] = ()
    ) -> SearchProtocol:
        """The protocol for `config.rollout` and `config.eval`. Raises as `answer_form`."""
        form = self.answer_form(config)
        protocol = self.protocol.from_config(tokenizer, config.rollout)
        if isinstance(protocol, PlainProtocol):
            return replace(protocol, answer=form, examples=tuple(examples))
        return protocol

    def budget(self, max_searches: int) -> int:
        """How many of `max_searches` searches the model's own turns may use."""
        return max(0, max_searches - self.search_first) if self.searches else 0


def spoken(protocol: SearchProtocol, turn: Turn) -> str:
    """The text of a turn without the token that ended it."""
    return protocol.decode(without_end(turn)) if turn.finish_reason == "eos" else turn.text


def without_end(turn: Turn) -> tuple[int, ...]:
    """The ids of a turn without its end-of-sequence token."""
    ended = turn.finish_reason == "eos" and not turn.eos_dropped
    return turn.action_ids[:-1] if ended else turn.action_ids


def new_hits(turns: Iterable[Turn]) -> list[list[Hit]]:
    """The hits of each search, without those of earlier searches."""
    seen: set[str] = set()
    hits_of_search: list[list[Hit]] = []
    for turn in turns:
        if turn.kind == "search":
            hits_of_search.append([hit for hit in turn.hits if hit.contents not in seen])
            seen.update(hit.contents for hit in turn.hits)
    return hits_of_search


def all_passages(protocol: SearchProtocol, turns: Iterable[Turn]) -> str:
    """Every retrieved passage once. Each search is cut to the observation limit."""
    texts = (
        "\n".join(f"{hit.title}: {hit.text}" for hit in hits).strip()
        for hits in new_hits(turns)
        if hits
    )
    return "\n".join(protocol.cut(text, protocol.max_observation_tokens) for text in texts)
