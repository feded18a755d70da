"""From trajectories and demonstrations to what the learner trains on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tspo_cli.retrieval.types import Hit
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.rollout.trajectory import Trajectory
from tspo_cli.training.core.batching import TrainSequence


@dataclass(frozen=True, slots=True)
class ScriptedTurn:
    """What the agent should write in one turn, and the passages that its search brings (none: no
    search).
    """

    text: str
    hits: tuple[Hit, ...] = ()


@dataclass(frozen=True, slots=True)
class ScriptedTrajectory:
    """A demonstration for SFT."""

    question: str
    turns: tuple[ScriptedTurn, ...]


def policy_sequence(trajectory: Trajectory, advantages: Sequence[float]) -> TrainSequence:
    """The exact tokens of a rollout; weight 1 on sampled tokens, each with the advantage of its
    turn.
    """
    turn_of = trajectory.turn_of_token()
    return TrainSequence(
        token_ids=trajectory.token_ids(),
        weights=[float(turn >= 0) for turn in turn_of],
        advantages=[advantages[turn] if turn >= 0 else 0.0 for turn in turn_of],
        old_logprobs=trajectory.sampled_logprobs(),
        turns=turn_of,
    )


def demonstration_sequence(
    demonstration: ScriptedTrajectory, protocol: SearchProtocol, context_weight: float
) -> TrainSequence:
    """Weight 1 on the agent's tokens, `context_weight` on question and observations."""
    ids = protocol.prompt_ids(demonstration.question)
    weights = [context_weight] * len(ids)
    for turn in demonstration.turns:
        action = protocol.action_ids(turn.text)
        feedback = protocol.observation(turn.hits)[1] if turn.hits else []
        ids += action + feedback
        weights += [1.0] * len(action) + [context_weight] * len(feedback)
    weights[0] = 0.0
    return TrainSequence(
        token_ids=ids, weights=weights, advantages=[0.0] * len(ids), old_logprobs=[0.0] * len(ids)
    )
