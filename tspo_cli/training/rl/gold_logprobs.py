"""How probable the gold answer is to the policy before each turn: the signal of IGPO."""

from __future__ import annotations

from collections.abc import Sequence

from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.rollout.trajectory import Trajectory
from tspo_cli.training.core.batching import TrainSequence
from tspo_cli.training.core.learner import Learner


def gold_logprobs(
    groups: Sequence[Sequence[Trajectory]], learner: Learner, protocol: SearchProtocol, prefix: str
) -> list[list[list[float]]]:
    """[group][trajectory][K]: mean log-probability (nats per token) of the first gold answer before
    each turn.

    The answer stands after `prefix` where the model would speak: after the prompt, and after the
    feedback of every turn but the last. The prompt is scored once for a group. Every process calls
    this with its own groups.
    """
    sequences: list[TrainSequence] = []
    places: list[list[list[int]]] = []
    for trajectories in groups:
        before, gold = protocol.belief_ids(prefix, trajectories[0].question.golden_answers[0])
        start = _scored(list(trajectories[0].prompt_ids), before, gold)
        sequences.append(start)
        first, rows = len(sequences) - 1, []
        for trajectory in trajectories:
            row, ids = [first], list(trajectory.prompt_ids)
            for turn in trajectory.turns[:-1]:
                ids += [*turn.action_ids, *turn.feedback_ids]
                sequences.append(_scored(ids, before, gold))
                row.append(len(sequences) - 1)
            rows.append(row)
        places.append(rows)
    means = [
        sum(scores) / sum(one.weights)
        for scores, one in zip(learner.logprobs(sequences), sequences, strict=True)
    ]
    return [[[means[place] for place in row] for row in rows] for rows in places]


def _scored(ids: list[int], before: list[int], gold: list[int]) -> TrainSequence:
    tokens = [*ids, *before, *gold]
    weights = [0.0] * (len(tokens) - len(gold)) + [1.0] * len(gold)
    return TrainSequence(tokens, weights, [0.0] * len(tokens), [0.0] * len(tokens))
