"""The search protocol: prompt ids in, actions parsed from the model's own text, observations as ids
out.

Tags and observation text are Search-R1's. Actions are parsed from the response alone, never from
prompt or observation. Text that others wrote (questions, passages) is encoded so that it can never
become a special token.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tspo_cli.config.schema import RolloutConfig
from tspo_cli.data.question import Question
from tspo_cli.retrieval.types import Hit
from tspo_cli.rollout.engines.engine_protocol import TokenizerLike
from tspo_cli.rollout.prompts import PromptStyle, prompt_style
from tspo_cli.rollout.trajectory import Turn, TurnKind

STOP = ("</search>", "</answer>")
TAGS = (
    "<think>",
    "</think>",
    "<search>",
    "</search>",
    "<information>",
    "</information>",
    "<answer>",
    "</answer>",
)
_ACTION = re.compile(r"<(search|answer)>(.*?)</\1>", re.DOTALL)
_MARK = "\ue000"  # a private-use character: where a template is filled


@dataclass(frozen=True, slots=True)
class Action:
    """What one model segment does. `content` is the query or the answer, empty for the other
    kinds.
    """

    kind: TurnKind
    content: str = ""


@dataclass(frozen=True, slots=True)
class Moment:
    """Where a trajectory stands when the model is about to speak, or has just spoken."""

    question: Question
    turns: tuple[Turn, ...]
    may_search: bool


def parse_action(text: str, *, finish_reason: str, may_search: bool) -> Action:
    """The first complete search or answer block of a model segment.

    A search without words, or where no search is allowed, is invalid; so is a segment without a
    block (truncated where the token limit cut it).
    """
    found = _ACTION.search(text)
    if found is None:
        return Action("truncated" if finish_reason == "length" else "invalid")
    kind, content = found.group(1), found.group(2).strip()
    if kind == "answer":
        return Action("answer", content)
    if may_search and content:
        return Action("search", content)
    return Action("invalid")


def passages_text(hits: Sequence[Hit]) -> str:
    """`Doc i(Title: t) text`, one line each, numbered from 1."""
    return "\n".join(
        f"Doc {rank}(Title: {hit.title}) {hit.text}" for rank, hit in enumerate(hits, start=1)
    ).strip()


def search_action(think: str, query: str) -> str:
    """The text of a well-formed search turn."""
    return f"<think> {think} </think> <search> {query} </search>"


def answer_action(think: str, answer: str) -> str:
    """The text of a well-formed answering turn."""
    return f"<think> {think} </think> <answer> {answer} </answer>"


@dataclass(frozen=True)
class SearchProtocol:
    """Prompts and observations for one tokenizer and one set of rollout options: the agent with
    Search-R1's tags.

    Methods that prompt in another way (evaluation/methods) change `stop`, `parse` and `context`.
    """

    stop: ClassVar[tuple[str, ...]] = STOP

    tokenizer: TokenizerLike
    style: PromptStyle
    system: str
    use_chat_template: bool
    max_observation_tokens: int

    @classmethod
    def from_config(cls, tokenizer: TokenizerLike, config: RolloutConfig) -> SearchProtocol:
        """The protocol that `config` describes."""
        return cls(
            tokenizer=tokenizer,
            style=prompt_style(config.prompt),
            system=config.system,
            use_chat_template=config.chat_template == "auto"
            and bool(getattr(tokenizer, "chat_template", None)),
            max_observation_tokens=config.max_observation_tokens,
        )

    @property
    def prefill(self) -> str:
        """What the first prompt ends with and the model's first turn begins with."""
        return ""

    def parse(self, text: str, finish_reason: str, moment: Moment) -> Action:
        """What the model's segment `text` does at this moment, before it is appended to the
        turns.
        """
        return parse_action(text, finish_reason=finish_reason, may_search=moment.may_search)

    def context(self, moment: Moment, ids: Sequence[int]) -> Sequence[int]:
        """All token ids that the model continues now. `ids` is what it has seen so far, feedback
        included, and empty before its first turn. Training relies on this being `ids` itself:
        nothing is ever taken back.
        """
        return ids or self.prompt_ids(moment.question.question)

    def prompt_ids(self, question: str) -> list[int]:
        """Token ids of the search prompt."""
        return self.fill(self.style.search, {"question": question.strip()})

    def direct_ids(self, question: str) -> list[int]:
        """Token ids of the prompt without retrieval, prefill included."""
        return self.fill(self.style.direct, {"question": question.strip()}) + self._encode_ours(
            self.style.prefill
        )

    def rag_ids(self, question: str, hits: Sequence[Hit]) -> list[int]:
        """Token ids of the prompt with passages retrieved for the question, prefill included."""
        values: dict[str, str | list[int]] = {
            "question": question.strip(),
            "information": self.observation(hits)[1],
        }
        return self.fill(self.style.rag, values) + self._encode_ours(self.style.prefill)

    def observation(self, hits: Sequence[Hit]) -> tuple[str, list[int]]:
        """Text and ids of the passages in their tags; passages are cut so that the tags stay."""
        opening, closing = (
            self._encode_ours("\n\n<information>"),
            self._encode_ours("</information>\n\n"),
        )
        room = max(0, self.max_observation_tokens - len(opening) - len(closing))
        text = passages_text(hits)
        inner = self._encode_theirs(text)
        if len(inner) > room:
            inner = inner[:room]
            text = self.tokenizer.decode(
                inner, skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        return f"\n\n<information>{text}</information>\n\n", opening + inner + closing

    def correction(self) -> tuple[str, list[int]]:
        """Text and ids of the feedback to an invalid action."""
        ids = self._encode_ours(self.style.invalid)
        if len(ids) <= self.max_observation_tokens:
            return self.style.invalid, ids
        ids = ids[: self.max_observation_tokens]
        return self.decode(ids), ids

    def action_ids(self, text: str) -> list[int]:
        """Ids of a scripted model segment (demonstrations)."""
        return self._encode_ours(text)

    def belief_ids(self, prefix: str, answer: str) -> tuple[list[int], list[int]]:
        """Ids of a scripted `prefix` that opens an answer, and of the answer after it."""
        return self._encode_ours(prefix), self._encode_theirs(f" {answer.strip()}")

    def decode(self, ids: Sequence[int]) -> str:
        """Text of sampled ids, special tokens included."""
        return self.tokenizer.decode(
            list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
        )

    def fill(self, template: str, values: Mapping[str, str | Sequence[int]]) -> list[int]:
        """Ids of a template, as a user message where there is a chat template, with its {names}
        replaced.

        Values are texts that others wrote, or ids. Ours and theirs are encoded in one go where that
        is safe.
        """
        for name in values:
            template = template.replace(f"{{{name}}}", f"{_MARK}{name}{_MARK}")
        return self.fill_marked(self._render(template), values)

    def fill_marked(self, rendered: str, values: Mapping[str, str | Sequence[int]]) -> list[int]:
        """`fill` for a text that is rendered already, with its names between U+E000 characters."""
        ids: list[int] = []
        text = ""
        for place, piece in enumerate(rendered.split(_MARK)):
            value = piece if place % 2 == 0 else values[piece]
            if isinstance(value, str) and (place % 2 == 0 or self._is_harmless(value)):
                text += value
                continue
            # Theirs spells a special token: encode it apart, the leading space with it.
            space = " " if isinstance(value, str) and text.endswith(" ") else ""
            ids += self._encode_ours(text.removesuffix(space))
            ids += self._encode_theirs(space + value) if isinstance(value, str) else value
            text = ""
        return ids + self._encode_ours(text)

    def cut(self, text: str, tokens: int) -> str:
        """The first `tokens` tokens of a text that others wrote."""
        ids = self._encode_theirs(text)
        return text if len(ids) <= tokens else self.decode(ids[:tokens])

    def _is_harmless(self, text: str) -> bool:
        return _MARK not in text and self._encode_ours(text) == self._encode_theirs(text)

    def _render(self, text: str) -> str:
        if not self.use_chat_template:
            return text
        messages = [{"role": "user", "content": text}]
        if self.system:
            messages.insert(0, {"role": "system", "content": self.system})
        return self.tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        )

    def _encode_ours(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else []

    def _encode_theirs(self, text: str) -> list[int]:
        if not text:
            return []
        return list(
            self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        )
