"""Baselines whose model answers in its own words: how they are prompted, and how a reply is read.

`eval.answer` chooses: `tags` asks for <answer> tags and reads nothing else, `reply` takes the whole
reply, as FlashRAG and Search-R1 score their baselines, and `auto` reads the tags where there are
any, then what follows the method's own marker, then the whole reply.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

from tspo_cli.evaluation.methods.examples import Example
from tspo_cli.retrieval.types import Hit
from tspo_cli.rollout.protocol import (
    STOP_STRINGS,
    Action,
    RolloutState,
    SearchProtocol,
    parse_action,
)
from tspo_cli.rollout.thoughts import split_thoughts
from tspo_cli.rollout.trajectory import Trajectory

AnswerForm = Literal["auto", "tags", "reply"]
AnswerFrom = Literal["tags", "marker", "reply"]
"""Where an answer was found: in its tags, after a marker, or in the whole reply."""

MARKER = "So the answer is:"
_TAG = re.compile(r"</?(?:think|search|answer|information)>")
_ANSWER_TAG = "<answer>"
_MARKED = re.compile(
    r"[Aa](?<!\w.)(?i:nswer(?:\s+to\s+(?:the|this|your)\s+question)?(?:\s+is(?:\s*:)?|\**\s*:))"
    r"[*\s]*+(?=[^\s:*])"
)
_LINE = re.compile(r"[^\n\r\v\f\x1c-\x1e\x85\u2028\u2029]*")
_TRIED_FROM_THE_END = 64
"""Words "answer", before one pass over the text is faster."""
_NEXT_QUESTION = "\nQuestion:"


@dataclass(frozen=True, slots=True)
class Plain:
    """A prompt in plain words: an instruction, then the question, which `body` has as {question}.

    `opening` is what the model's answer begins with where there is no chat template.
    """

    instruction: str
    body: str = "Question: {question}"
    opening: str = "Answer:"


@dataclass(frozen=True)
class PlainProtocol(SearchProtocol):
    """A protocol whose final answer may stand without tags.

    `examples` are shown before the question: as messages of user and assistant in a chat template,
    else as blocks of text.
    """

    answer: AnswerForm = "auto"
    examples: tuple[Example, ...] = ()

    stop: ClassVar[tuple[str, ...]] = ()
    stop_outside: ClassVar[tuple[str, ...]] = STOP_STRINGS

    @cached_property
    def opens_thought(self) -> bool:
        """As of any protocol; a prompt with a prefill ends with that."""
        return not self.style.prefill and super().opens_thought

    @property
    def marked(self) -> bool:
        """True if the method asks for `MARKER` before the answer."""
        return False

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """A model without a chat template goes on with a question of its own: it stops there."""
        return (*self.stop, *(() if self.use_chat_template else (_NEXT_QUESTION,)))

    @property
    def in_words(self) -> bool:
        """True if the prompts are in plain words. A style with a prefill opens the answer tag
        itself: its policy learned the tags, and needs no instruction.
        """
        return self.answer != "tags" and not self.style.prefill

    def parse(self, text: str, finish_reason: str, state: RolloutState) -> Action:
        """The answer of the last turn. A reply without any word in it is no answer."""
        answer, _ = self.read(text)
        if answer is not None:
            return Action("answer", answer)
        return Action("truncated" if finish_reason == "length" else "invalid")

    def read(self, text: str) -> tuple[str | None, AnswerFrom | None]:
        """The answer in a reply and where it was found; (None, None) without one."""
        said = self.said(text)
        if self.answer == "tags":
            action = parse_action(said, finish_reason="stop", may_search=False)
            return (action.content, "tags") if action.kind == "answer" else (None, None)
        if self.answer == "auto":
            if _ANSWER_TAG in said:
                inside = said.split(_ANSWER_TAG, 1)[1].split("</answer>")[0]
                return _TAG.sub("", inside).strip(), "tags"
            marked = after_marker(said) if self.marked else None
            if marked is not None:
                return marked, "marker"
        whole = _TAG.sub(" ", said).strip()
        return (whole, "reply") if whole else (None, None)

    def said(self, text: str) -> str:
        """A reply without special tokens, thoughts and the next question that a model without a
        chat template asks itself.
        """
        said, _ = split_thoughts(self._without_special_tokens(text), opened=self.opens_thought)
        return said if self.use_chat_template else said.split(_NEXT_QUESTION)[0]

    def observation(self, hits: Sequence[Hit]) -> tuple[str, list[int]]:
        """The passages, in their tags only where the prompts have tags."""
        if not self.in_words:
            return super().observation(hits)
        text = self.cut(self.passages(hits), self.max_observation_tokens)
        return text, self.action_ids(text)

    def ask(self, prompt: Plain, values: Mapping[str, str | Sequence[int]]) -> list[int]:
        """Ids of a prompt in plain words, after the examples."""
        shown: dict[str, str | Sequence[int]] = {}
        for number, example in enumerate(self.examples):
            shown |= {f"q{number}": example.question, f"a{number}": self._said(example)}
        names = range(len(self.examples))
        if not self.use_chat_template:
            blocks = [f"Question: {{q{n}}}\n{prompt.opening} {{a{n}}}" for n in names]
            blocks.append(f"{prompt.body}\n{prompt.opening}")
            return self.fill("\n\n".join([prompt.instruction, *blocks]), {**values, **shown})
        turns: list[tuple[str, str]] = []
        for n in names:
            turns += [("user", f"Question: {{q{n}}}"), ("assistant", f"{{a{n}}}")]
        turns.append(("user", prompt.body))
        turns[0] = ("user", f"{prompt.instruction}\n\n{turns[0][1]}")
        return self.fill_messages(turns, {**values, **shown})

    def _said(self, example: Example) -> str:
        """The reply of an example, in the form that the method asks for."""
        return example.reply or (f"{MARKER} {example.answer}" if self.marked else example.answer)

    def _without_special_tokens(self, text: str) -> str:
        special: Iterable[str] = getattr(self.tokenizer, "all_special_tokens", ())
        for token in special:
            if not _TAG.fullmatch(token):
                text = text.replace(token, "")
        return text


def answer_from(protocol: SearchProtocol, trajectory: Trajectory) -> AnswerFrom | None:
    """How the final answer of a trajectory was read; None without one."""
    if trajectory.answer is None:
        return None
    if isinstance(protocol, PlainProtocol):
        return protocol.read(trajectory.turns[-1].text)[1]
    return "tags"


def after_marker(text: str, marker: re.Pattern[str] = _MARKED) -> str | None:
    """The rest of the line after the last marker, such as "So the answer is:" or "Answer:"; None
    without one. A marker begins with the word "answer".
    """
    last = _last(text, marker)
    line = _LINE.match(text, last.end()) if last else None
    return (line.group().strip("* \t") if line else "") or None


def _last(text: str, marker: re.Pattern[str]) -> re.Match[str] | None:
    # From the end, for a model may repeat itself. No replacement here changes the length of a text,
    # and the long s is an s where case does not count.
    lower = text.replace("\N{LATIN SMALL LETTER LONG S}", "s")
    lower = lower.replace("\N{LATIN CAPITAL LETTER I WITH DOT ABOVE}", "i").lower()
    place = len(text)
    for _ in range(_TRIED_FROM_THE_END):
        place = lower.rfind("answer", 0, place)
        if place < 0:
            return None
        if found := marker.match(text, place):
            return found
    return next(iter(deque(marker.finditer(text), maxlen=1)), None)
