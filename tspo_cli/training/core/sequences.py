"""What the learner trains on: sequences of tokens with their targets, made of rollouts and
demonstrations.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tspo_cli.retrieval.types import Hit
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.rollout.trajectory import Trajectory

VALUES = ("advantages", "old_logprobs", "returns", "old_values")


@dataclass(frozen=True, slots=True)
class TrainSequence:
    """One sequence of T tokens. Entry t of each list belongs to token t, which is predicted from
    the tokens before it.

    Tokens of weight 0 are not trained; the first token must have weight 0. Policy updates read
    `advantages` and `old_logprobs` (nats, of the policy that sampled). Critic updates read
    `returns` and `old_values` (the critic's values before the update). A list that is left empty is
    filled with zeros. `turns` has the turn of each token, for ratios by turn (empty: all tokens are
    of one turn). `clip_scales` has a factor of the clip range for each token (empty: 1).

    Raises:
        ValueError: lists of different lengths, or a first token with a weight.
    """

    token_ids: list[int]
    weights: list[float]
    advantages: list[float] = field(default_factory=list)
    old_logprobs: list[float] = field(default_factory=list)
    turns: list[int] = field(default_factory=list)
    returns: list[float] = field(default_factory=list)
    old_values: list[float] = field(default_factory=list)
    clip_scales: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in VALUES:
            if not getattr(self, name):
                object.__setattr__(self, name, [0.0] * len(self.token_ids))
        lengths = {len(self.token_ids), len(self.weights)}
        lengths |= {len(getattr(self, name)) for name in VALUES}
        lengths |= {len(row) for row in (self.turns, self.clip_scales) if row}
        if len(lengths) != 1 or not self.token_ids:
            raise ValueError(
                f"a training sequence needs lists of the same length, got {sorted(lengths)}"
            )
        if self.weights[0]:
            raise ValueError("the first token is predicted from nothing: its weight must be 0")


@dataclass(frozen=True, slots=True)
class ScriptedTurn:
    """What the agent should write in one turn, and the passages that its search returns (none: the
    turn does not search).

    `shown` is the text of the passages where only that is known. An invalid turn is followed by the
    protocol's correction; it is shown and not trained.
    """

    text: str
    hits: tuple[Hit, ...] = ()
    shown: str | None = None
    is_invalid: bool = False

    @property
    def searches(self) -> bool:
        """Whether passages follow."""
        return bool(self.hits) or self.shown is not None

    def passages(self, protocol: SearchProtocol) -> str:
        """The text of its passages before anything is cut."""
        return protocol.passages(self.hits) if self.shown is None else self.shown


@dataclass(frozen=True, slots=True)
class ScriptedTrajectory:
    """A demonstration for SFT."""

    question: str
    turns: tuple[ScriptedTurn, ...]


def policy_sequence(
    trajectory: Trajectory, advantages: Sequence[float], clip_scales: Sequence[float] = ()
) -> TrainSequence:
    """The exact tokens of a rollout; weight 1 on sampled tokens, each with the advantage of its
    turn, and with its clip scale where turns have one.
    """
    turn_of = trajectory.turn_of_token()
    return TrainSequence(
        token_ids=trajectory.token_ids(),
        weights=[float(turn >= 0) for turn in turn_of],
        advantages=[advantages[turn] if turn >= 0 else 0.0 for turn in turn_of],
        old_logprobs=trajectory.sampled_logprobs(),
        turns=turn_of,
        clip_scales=[clip_scales[turn] if turn >= 0 else 1.0 for turn in turn_of]
        if clip_scales
        else [],
    )


def continuation_sequence(
    prompt_ids: Sequence[int], token_ids: Sequence[int], logprobs: Sequence[float] = ()
) -> TrainSequence:
    """A prompt and the tokens that follow it; weight 1 on the latter, `logprobs` are theirs."""
    context = [0.0] * len(prompt_ids)
    return TrainSequence(
        token_ids=[*prompt_ids, *token_ids],
        weights=context + [1.0] * len(token_ids),
        old_logprobs=[*context, *logprobs] if logprobs else [],
    )


def demonstration_sequence(
    demonstration: ScriptedTrajectory, protocol: SearchProtocol, context_weight: float
) -> TrainSequence:
    """Weight 1 on the agent's tokens, `context_weight` on question, observations, and invalid turns
    with their corrections.
    """
    ids = protocol.prompt_ids(demonstration.question)
    weights = [context_weight] * len(ids)
    for turn in demonstration.turns:
        action = protocol.action_ids(turn.text)
        if turn.is_invalid:
            feedback = protocol.correction()[1]
        else:
            feedback = protocol.shown(turn.passages(protocol))[1] if turn.searches else []
        ids += action + feedback
        trained = context_weight if turn.is_invalid else 1.0
        weights += [trained] * len(action) + [context_weight] * len(feedback)
    weights[0] = 0.0
    return TrainSequence(token_ids=ids, weights=weights)


def demonstration_lengths(
    demonstrations: Sequence[ScriptedTrajectory], protocol: SearchProtocol
) -> list[int]:
    """Tokens of every demonstration, prompt and passages included."""
    return [
        len(demonstration_sequence(demonstration, protocol, 0.0).token_ids)
        for demonstration in demonstrations
    ]
