"""A rollout: the exact tokens, turn by turn, and the retrieved passages."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, NamedTuple

from tspo_cli.data.question import Question
from tspo_cli.retrieval.types import Hit
from tspo_cli.rollout.branch import Branch

TurnKind = Literal["search", "answer", "invalid", "truncated", "note"]
"""What a turn did. "note": the model wrote about retrieved passages for itself (Search-o1).
"truncated": the token limit cut the turn before it had an action.
"""
INVALID = ("invalid", "truncated")
"""Kinds of turns without an action."""


class GroupId(NamedTuple):
    """The identity of a group, the rollouts of one draw of a question."""

    data_source: str
    question_id: str
    draw: int


def request_seed(seed: int, group: GroupId, sample: int) -> int:
    """A 63-bit seed that depends on the experiment's seed and the trajectory's identity alone."""
    text = f"{seed}|{group.data_source}|{group.question_id}|{group.draw}|{sample}"
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def turn_seed(seed: int, earlier: int) -> int:
    """The seed of a trajectory's next turn after so many earlier ones."""
    return (seed + 0x9E3779B97F4A7C15 * earlier) & ((1 << 63) - 1)


@dataclass(frozen=True, slots=True)
class CallFacts:
    """What is to know of the function calls in a turn.

    `error` says why the first is no valid call; empty if it is one. `ignored` counts further calls,
    which were not executed. `in_thought`: it stands in a thought that has no end.
    """

    error: str = ""
    ignored: int = 0
    in_thought: bool = False


@dataclass(frozen=True, slots=True)
class Turn:
    """One model segment and the feedback after it.

    `action_ids` are the sampled token ids as the engine returned them. `logprobs` are their
    log-probabilities (nats) under the sampling policy, one each; empty from an endpoint.
    `feedback_ids` are tokenised separately and never trained on. `search_error` says why a search
    failed: the trajectory then does not enter the loss. `weight_version` is that of the weights
    which sampled the last token; `mixed`: other weights sampled earlier tokens of the segment.
    `eos_dropped`: an end-of-sequence token was sampled after `action_ids` and is in no context.
    `call`: set if the model called a function. `thought`: reasoning that a server keeps apart.
    `served_as`: the model that a server said it answered as, if it is not the one asked for.
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
    eos_dropped: bool = False
    call: CallFacts | None = None
    thought: str = ""
    served_as: str = ""

    @property
    def only_thought(self) -> bool:
        """True if a server returned reasoning and no text."""
        return bool(self.thought) and not self.text.strip()

    @property
    def sampled_tokens(self) -> int:
        """Number of tokens that the model sampled."""
        return len(self.action_ids) + self.eos_dropped


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One rollout of one question: the prompt, then turns. `sample` is its number in the group.

    `weight_version` is that of its last token. `late`: its deadline passed before it was complete.
    `refused`: why a server refused its next turn; empty otherwise. It then has no answer. `branch`:
    how it began, where the rollouts of a question form trees; its turns are all from the question
    on, those that it shares included. `verdict`: of a judge on the answer, where it is the outcome
    that is trained; `judge_error`: why there is none. `unanswered`: why a server did not answer its
    next turn.
    """

    group: GroupId
    sample: int
    question: Question
    prompt_ids: tuple[int, ...]
    turns: tuple[Turn, ...]
    weight_version: int = 0
    late: bool = False
    refused: str = ""
    branch: Branch | None = None
    verdict: float | None = None
    judge_error: str = ""
    unanswered: str = ""

    @property
    def path(self) -> tuple[int, ...]:
        """For each turn the number of the rollout that sampled it. Empty: there are no trees."""
        if self.branch is None:
            return ()
        owners = self.branch.owners[: len(self.turns)]
        return owners + (self.sample,) * (len(self.turns) - len(owners))

    @property
    def own_turns(self) -> tuple[Turn, ...]:
        """The turns that were sampled for this rollout: all but those that it shares."""
        return self.turns[len(self.branch.owners) :] if self.branch else self.turns

    @property
    def answer(self) -> str | None:
        """The text of the final answer. None if the model never gave one."""
        return self.turns[-1].answer if self.turns and not self.refused else None

    @property
    def failed(self) -> bool:
        """True if it ended for a reason outside the policy: a failed search, its deadline, a server
        that did not answer, or a judge without a verdict.
        """
        return (
            self.late
            or bool(self.judge_error)
            or bool(self.unanswered)
            or any(turn.search_error is not None for turn in self.turns)
        )

    @property
    def mixed(self) -> bool:
        """True if different weights sampled its tokens: then it is a sample of no single policy."""
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
        """The T token ids that the policy saw: prompt, then action and feedback of each turn."""
        ids = list(self.prompt_ids)
        for turn in self.turns:
            ids += turn.action_ids
            ids += turn.feedback_ids
        return ids

    def turn_of_token(self) -> list[int]:
        """For each of the T tokens, the index of the turn that sampled it. -1 for prompt and
        feedback.
        """
        turn_of = [-1] * len(self.prompt_ids)
        for index, turn in enumerate(self.turns):
            turn_of += [index] * len(turn.action_ids)
            turn_of += [-1] * len(turn.feedback_ids)
        return turn_of

    def sampled_logprobs(self) -> list[float]:
        """For each of the T tokens, its log-probability when sampled. 0 for prompt and feedback."""
        values = [0.0] * len(self.prompt_ids)
        for turn in self.turns:
            values += turn.logprobs
            values += [0.0] * len(turn.feedback_ids)
        return values
