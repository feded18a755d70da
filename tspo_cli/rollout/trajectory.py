"""What a rollout leaves behind: the exact tokens, turn by turn, and what was retrieved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from tspo_cli.data.question import Question
from tspo_cli.retrieval.types import Hit

TurnKind = Literal["search", "answer", "invalid", "truncated", "note"]
"""What a turn did. A note is text for the model itself, between a search and what it says next
(Search-o1).
"""


class GroupId(NamedTuple):
    """A group of rollouts shares a question: (data set, question id, draw). Never a bare index."""

    data_source: str
    question_id: str
    draw: int


@dataclass(frozen=True, slots=True)
class Turn:
    """One model segment and the feedback that followed it.

    `action_ids` are the sampled token ids as the engine returned them, `logprobs` their
    log-probabilities (nats) under the sampling policy, one each. `feedback_ids` are tokenised
    separately and never trained on. `search_error` marks a failed search: such a trajectory does
    not enter the loss. `weight_version` says which weights sampled the action, `mixed` that they
    changed before it was complete.
    """

    action_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish_reason: str
    kind: TurnKind
    text: str
    query: str | None = None
    answer: str | None = None
    hits: tuple[Hit, ...] = ()
    feedback: str = ""
    feedback_ids: tuple[int, ...] = ()
    search_error: str | None = None
    weight_version: int = 0
    mixed: bool = False


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One rollout of one question: prompt, then turns. `sample` is its place in the group.

    `late`: its deadline ended it; its turns are not all that it would have had.
    """

    group: GroupId
    sample: int
    question: Question
    prompt_ids: tuple[int, ...]
    turns: tuple[Turn, ...]
    weight_version: int = 0
    late: bool = False

    @property
    def answer(self) -> str | None:
        """The text of the final answer, None if the model never gave one."""
        return self.turns[-1].answer if self.turns else None

    @property
    def failed(self) -> bool:
        """True when it ended for a reason outside the policy: a search that failed, or its
        deadline.
        """
        return self.late or any(turn.search_error is not None for turn in self.turns)

    @property
    def mixed(self) -> bool:
        """True when not all of its tokens were sampled by the same weights: no policy has its
        probability.
        """
        sampled = [turn for turn in self.turns if turn.logprobs]
        return (
            any(turn.mixed for turn in sampled)
            or len({turn.weight_version for turn in sampled}) > 1
        )

    @property
    def searches(self) -> int:
        """Number of searches that were executed."""
        return sum(turn.kind == "search" for turn in self.turns)

    def token_ids(self) -> list[int]:
        """Prompt, then action and feedback of each turn: exactly the ids that the policy saw,
        length T.
        """
        ids = list(self.prompt_ids)
        for turn in self.turns:
            ids += turn.action_ids
            ids += turn.feedback_ids
        return ids

    def turn_of_token(self) -> list[int]:
        """For each of the T tokens the index of the turn whose action it belongs to, -1 where it
        was not sampled.
        """
        turn_of = [-1] * len(self.prompt_ids)
        for index, turn in enumerate(self.turns):
            turn_of += [index] * len(turn.action_ids)
            turn_of += [-1] * len(turn.feedback_ids)
        return turn_of

    def sampled_logprobs(self) -> list[float]:
        """For each of the T tokens its log-probability when sampled, 0 where it was not sampled."""
        values = [0.0] * len(self.prompt_ids)
        for turn in self.turns:
            values += turn.logprobs
            values += [0.0] * len(turn.feedback_ids)
        return values
