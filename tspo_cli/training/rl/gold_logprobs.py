"""How probable the policy finds the gold answer before each turn: the signal of IGPO."""

from __future__ import annotations

from collections.abc import Sequence

from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.rollout.trajectory import Trajectory
from tspo_cli.training.core.policy_learner import PolicyLearner
from tspo_cli.training.core.sequences import TrainSequence, continuation_sequence


def gold_logprobs(
    groups: Sequence[Sequence[Trajectory]],
    learner: PolicyLearner,
    protocol: SearchProtocol,
    prefix: str,
) -> list[list[list[float]]]:
    """[group][trajectory][K]: mean log-probability (nats per token) of the first gold answer before
    each turn.

    The answer stands after `prefix` where the model would continue: after the prompt, and after the
    feedback of every turn but the last. The prompt is scored once for a group. Every process calls
    this with its own groups.
    """
    sequences: list[TrainSequence] = []
    # [group][trajectory][K]: the index in `sequences`
    indices: list[list[list[int]]] = []
    for trajectories in groups:
        before, gold = protocol.belief_ids(prefix, trajectories[0].question.golden_answers[0])
        first = len(sequences)
        sequences.append(continuation_sequence([*trajectories[0].prompt_ids, *before], gold))
        rows = []
        for trajectory in trajectories:
            row, ids = [first], list(trajectory.prompt_ids)
            for turn in trajectory.turns[:-1]:
                ids += [*turn.action_ids, *turn.feedback_ids]
                row.append(len(sequences))
                sequences.append(continuation_sequence([*ids, *before], gold))
            rows.append(row)
        indices.append(rows)
    means = [
        sum(logprobs) / sum(sequence.weights)
        for logprobs, sequence in zip(learner.logprobs(sequences), sequences, strict=True)
    ]
    return [[[means[index] for index in row] for row in rows] for rows in indices]
