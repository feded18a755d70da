"""ITER-RETGEN (Shao et al. 2023): answer with passages, then search with question and answer
together, and repeat.

Every round reads only the passages of its own search. The number of rounds is the search budget,
and the answer of the last round counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from tspo_cli.evaluation.methods.method import Method
from tspo_cli.evaluation.methods.plain import MARKER, PlainProtocol
from tspo_cli.rollout.protocol import Action, RolloutState

TAGGED = (
    "Read the passages, think step by step inside <think> and </think>, then write only the final "
    "answer, as short as "
    "possible, inside <answer> and </answer>.\nPassages:\n{passages}\nQuestion: {question}\n"
)
PROMPT = (
    f'Read the passages and think step by step. End with "{MARKER}" and the answer, in a few words.'
    "\nPassages:\n{passages}\nQuestion: {question}\n"
)
_TAG = re.compile(r"<[^<>\s]{1,20}>")


class IterRetgenProtocol(PlainProtocol):
    """Whole generations as queries."""

    @property
    def marked(self) -> bool:
        """The answer follows the reasoning."""
        return True

    def parse(self, text: str, finish_reason: str, state: RolloutState) -> Action:
        """The next query while searches are left, then the answer."""
        if not state.may_search:
            return super().parse(text, finish_reason, state)
        generation = " ".join(_TAG.sub(" ", text).split())
        return Action("search", f"{state.question.question.strip()} {generation}".strip())

    def correction(self, ids: Sequence[int] = ()) -> tuple[str, list[int]]:
        """Empty: every prompt is built from the start."""
        return "", []

    def context(self, state: RolloutState, ids: Sequence[int]) -> Sequence[int]:
        """The prompt with the passages of the last search."""
        passages = self.cut(self.passages(state.turns[-1].hits), self.max_observation_tokens)
        return self.fill(
            PROMPT if self.in_words else TAGGED,
            {"passages": passages, "question": self.question_text(state.question.question)},
        )


ITER_RETGEN = Method("iter_retgen", IterRetgenProtocol, searches=True, search_first=True)
