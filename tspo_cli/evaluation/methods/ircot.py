"""IRCoT (Trivedi et al. 2023): each new sentence of the reasoning is the next query.

Every prompt has all passages so far before the question. The method ends when a sentence contains
the answer. After the last search, a final prompt asks for the answer.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from tspo_cli.evaluation.methods.method import Method, all_passages
from tspo_cli.evaluation.methods.plain import MARKER, PlainProtocol, after_marker
from tspo_cli.rollout.protocol import Action, RolloutState, parse_action

_STEP = (
    "Read the passages and reason towards the answer of the question, one short sentence at a "
    "time. Write only the next sentence; it is used to look for further passages. As soon as the "
    "answer is clear, write it instead, as short as possible, {form}.\nPassages:\n{passages}\n"
    "Question: {question}\nReasoning so far: {thoughts}\n"
)
_LAST = (
    "Read the passages and the reasoning, then write only the answer of the question, as short as "
    "possible{form}.\nPassages:\n{passages}\nQuestion: {question}\nReasoning: {thoughts}\n"
)
TAGGED_STEP = _STEP.replace("{form}", "inside <answer> and </answer>")
TAGGED_LAST = _LAST.replace("{form}", ", inside <answer> and </answer>")
STEP = _STEP.replace("{form}", f'after the words "{MARKER}"')
LAST = _LAST.replace("{form}", "")
_FULL_MARKER = re.compile(r"[Aa](?<!\w.)(?i:nswer is:)[*\s]*+(?=[^\s*])")
_TAG = re.compile(r"<[^<>\s]{1,20}>")
_WORD = re.compile(r"[^\W_]")
# A full stop after a single capital belongs to a name, such as "J. K. Rowling".
# (The blank first: patterns that begin with a character are searched much faster.)
_SENTENCE_END = re.compile(r"\s(?:(?<=[.!?].)(?<![A-Z]\..)\s*|(?<=\n)\n*)", re.DOTALL)


class IrcotProtocol(PlainProtocol):
    """Sentences instead of search tags."""

    stop_outside: ClassVar[tuple[str, ...]] = ("</answer>",)

    @property
    def marked(self) -> bool:
        """The answer follows the reasoning."""
        return True

    def parse(self, text: str, finish_reason: str, state: RolloutState) -> Action:
        """The answer if there is one, else a search for the first sentence. While searches are
        left, an answer is in its tags or after `MARKER`.
        """
        if not state.may_search:
            return super().parse(text, finish_reason, state)
        said = self.said(text)
        action = parse_action(said, finish_reason=finish_reason, may_search=False)
        marked = after_marker(said, _FULL_MARKER) if self.answer != "tags" else None
        if action.kind == "answer" or marked is not None:
            return super().parse(text, finish_reason, state)
        sentence = first_sentence(said)
        return Action("search", sentence) if sentence else action

    def correction(self, ids: Sequence[int] = ()) -> tuple[str, list[int]]:
        """Empty: every prompt is built from the start."""
        return "", []

    def context(self, state: RolloutState, ids: Sequence[int]) -> Sequence[int]:
        """The prompt: passages, question, and the sentences so far."""
        thoughts = [
            turn.query for turn in state.turns if turn.kind == "search" and turn.text and turn.query
        ]
        values = {
            "passages": all_passages(self, state.turns),
            "question": self.question_text(state.question.question),
            "thoughts": " ".join(thoughts),
        }
        tagged = not self.in_words
        if state.may_search:
            return self.fill(TAGGED_STEP if tagged else STEP, values)
        return self.fill(TAGGED_LAST if tagged else LAST, values)


def first_sentence(text: str) -> str:
    """The first sentence with a word in it, without tags."""
    text = _TAG.sub(" ", text).strip()
    word = _WORD.search(text)
    if word is None:
        return ""
    start = 0
    for end in _SENTENCE_END.finditer(text):
        if end.start() > word.start():
            return text[start : end.start()].strip()
        start = end.end()
    return text[start:].strip()


IRCOT = Method("ircot", IrcotProtocol, searches=True, search_first=True)
