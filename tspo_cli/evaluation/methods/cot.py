"""Chain of thought (Wei et al. 2022): think step by step, without retrieval, then answer."""

from __future__ import annotations

from collections.abc import Sequence

from tspo_cli.evaluation.methods.method import Method
from tspo_cli.evaluation.methods.plain import MARKER, Plain, PlainProtocol
from tspo_cli.rollout.protocol import RolloutState

PROMPT = Plain(
    f'Answer the question from what you know. Think step by step. End with "{MARKER}" and the '
    "answer, in a few words.",
    opening="Let's think step by step.",
)


class CotProtocol(PlainProtocol):
    """One prompt that asks for reasoning before the answer."""

    @property
    def marked(self) -> bool:
        """The answer follows the reasoning."""
        return True

    def context(self, state: RolloutState, ids: Sequence[int]) -> Sequence[int]:
        """The prompt with the request to think."""
        values = {"question": self.question_text(state.question.question)}
        if ids or not self.in_words:
            return ids or self.fill(self.style.cot, values)
        return self.ask(PROMPT, values)


COT = Method("cot", CotProtocol, searches=False, takes_examples=True)
