"""The agent with search tags (Search-R1, Jin et al. 2025). This is the agent that `tspo train`
trains.
"""

from __future__ import annotations

from typing import ClassVar

from tspo_cli.evaluation.methods.method import Method
from tspo_cli.rollout.protocol import STOP_STRINGS, Action, RolloutState, SearchProtocol
from tspo_cli.rollout.thoughts import hide_thoughts


class ServedSearchProtocol(SearchProtocol):
    """For a server, which may serve a model that was not trained with the tags, and only quotes
    them while it thinks.

    The server ends a turn at a stop string within a thought, too. Where it does not, because it is
    not sent one (`endpoint.drop`), nothing is read from a thought that has its end.
    """

    stop_outside: ClassVar[tuple[str, ...]] = STOP_STRINGS

    def parse(self, text: str, finish_reason: str, state: RolloutState) -> Action:
        """The action outside ended thoughts."""
        said = hide_thoughts(text, opened=self.opens_thought, ended_only=True)
        return super().parse(said, finish_reason, state)


SEARCH_R1 = Method(
    "search_r1",
    SearchProtocol,
    searches=True,
    served={"completions": ServedSearchProtocol, "chat": ServedSearchProtocol},
)
