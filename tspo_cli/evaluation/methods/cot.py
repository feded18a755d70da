"""Chain of thought (Wei et al. 2022): think step by step, without retrieval, then answer."""

from __future__ import annotations

from collections.abc import Sequence

from tspo_cli.evaluation.methods.method import Method
from tspo_cli.rollout.protocol import RolloutState, SearchProtocol


class CotProtocol(SearchProtocol):
    """One prompt that asks for reasoning before the answer."""

    def context(self, state: RolloutState, ids: Sequence[int]) -> Sequence[int]:
        """The prompt with the request to think."""
        return ids or self.fill(self.style.cot, {"question": state.question.question.strip()})


COT = Method("cot", CotProtocol, searches=False)
