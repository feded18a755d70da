"""Direct answer without retrieval: what the model knows."""

from __future__ import annotations

from collections.abc import Sequence

from tspo_cli.evaluation.methods.method import Method
from tspo_cli.rollout.protocol import RolloutState, SearchProtocol


class DirectProtocol(SearchProtocol):
    """One prompt, one answer."""

    @property
    def prefill(self) -> str:
        """The prefill of the prompt style."""
        return self.style.prefill

    def context(self, state: RolloutState, ids: Sequence[int]) -> Sequence[int]:
        """The prompt without passages."""
        return ids or self.direct_ids(state.question.question)


DIRECT = Method("direct", DirectProtocol, searches=False)
