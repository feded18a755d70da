"""One-shot retrieval (Lewis et al. 2020): search once with the question itself, then answer."""

from __future__ import annotations

from collections.abc import Sequence

from tspo_cli.evaluation.methods.method import Method
from tspo_cli.evaluation.methods.plain import Plain, PlainProtocol
from tspo_cli.rollout.protocol import RolloutState

PROMPT = Plain(
    "Answer the question with the help of the passages. Give only the answer, in a few words.",
    "{passages}\n\nQuestion: {question}",
)


class RagProtocol(PlainProtocol):
    """One prompt with the passages in it."""

    @property
    def prefill(self) -> str:
        """The prefill of the prompt style."""
        return self.style.prefill

    def context(self, state: RolloutState, ids: Sequence[int]) -> Sequence[int]:
        """The prompt with the passages for the question."""
        question = self.question_text(state.question.question)
        if ids or not self.in_words:
            return ids or self.rag_ids(question, state.turns[0].hits)
        return self.ask(PROMPT, {"question": question, "passages": state.turns[0].feedback})


RAG = Method("rag", RagProtocol, searches=False, search_first=True, takes_examples=True)
