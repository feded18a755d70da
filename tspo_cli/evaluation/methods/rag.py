"""One-shot retrieval (Lewis et al. 2020): search once with the question itself, then answer."""

from __future__ import annotations

from collections.abc import Sequence

from tspo_cli.evaluation.methods.method import Method
from tspo_cli.rollout.protocol import RolloutState, SearchProtocol


class RagProtocol(SearchProtocol):
    """One prompt with the passages in it."""

    @property
    def prefill(self) -> str:
        """The prefill of the prompt style."""
        return self.style.prefill

    def context(self, state: RolloutState, ids: Sequence[int]) -> Sequence[int]:
        """The prompt with the passages for the question."""
        return ids or self.rag_ids(state.question.question, state.turns[0].hits)


RAG = Method("rag", RagProtocol, searches=False, search_first=True)
