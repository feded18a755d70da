"""Direct answer without retrieval: what the model knows."""

from __future__ import annotations

from collections.abc import Sequence

from tspo_cli.evaluation.methods.method import Method
from tspo_cli.evaluation.methods.plain import Plain, PlainProtocol
from tspo_cli.rollout.protocol import RolloutState

PROMPT = Plain("Answer the question from what you know. Give only the answer, in a few words.")


class DirectProtocol(PlainProtocol):
    """One prompt, one answer."""

    @property
    def prefill(self) -> str:
        """The prefill of the prompt style."""
        return self.style.prefill

    def context(self, state: RolloutState, ids: Sequence[int]) -> Sequence[int]:
        """The prompt without passages."""
        question = self.question_text(state.question.question)
        if ids or not self.in_words:
            return ids or self.direct_ids(question)
        return self.ask(PROMPT, {"question": question})


DIRECT = Method("direct", DirectProtocol, searches=False, takes_examples=True)
