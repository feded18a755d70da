"""How probable a model finds answers (the gold ones, or those of the group) before each turn: the
signal of information gains.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tspo_cli.credit.algorithms.algorithm import GoldLogprobOptions, Target
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.rollout.trajectory import Trajectory
from tspo_cli.training.core.policy_learner import PolicyLearner
from tspo_cli.training.core.sequences import TrainSequence, continuation_sequence


def gold_logprobs(
    groups: Sequence[Sequence[Trajectory]],
    targets: Sequence[Sequence[Target]],
    learner: PolicyLearner,
    protocol: SearchProtocol,
    options: GoldLogprobOptions,
) -> list[list[list[float]]]:
    """[group][trajectory][K]: the belief in the group's `targets` before each turn (nats), as
    `options.belief` says; 0 where a group has none.

    The answer stands after the prefix where the model would continue: after the prompt, and after
    the feedback of every turn but the last. The prompt is scored once for a group. Every process
    calls this with its own groups.
    """
    sequences: list[TrainSequence] = []
    # [group][trajectory][K]: the index in `sequences` of the first of the group's targets
    indices: list[list[list[int]]] = []
    for trajectories, answers in zip(groups, targets, strict=True):
        encoded = [protocol.belief_ids(options.belief_prefix, answer) for answer, _ in answers]

        def ask(ids: Sequence[int], encoded: Sequence[tuple[list[int], list[int]]]) -> int:
            first = len(sequences)
            sequences.extend(
                continuation_sequence([*ids, *before], answer) for before, answer in encoded
            )
            return first

        first = ask(trajectories[0].prompt_ids, encoded)
        rows = []
        for trajectory in trajectories:
            row, ids = [first], list(trajectory.prompt_ids)
            for turn in trajectory.turns[:-1]:
                ids += [*turn.action_ids, *turn.feedback_ids]
                row.append(ask(ids, encoded))
            rows.append(row)
        indices.append(rows)
    measure = learner.logprobs if options.teacher == "policy" else learner.reference_logprobs
    sums = [sum(logprobs) for logprobs in measure(sequences)]
    lengths = [sum(sequence.weights) for sequence in sequences]

    def belief(first: int, answers: Sequence[Target]) -> float:
        end = first + len(answers)
        logs = sums[first:end]
        if not answers:
            return 0.0
        if options.belief == "alias_sum":
            return log_sum(logs)
        if options.belief == "mean":
            logs = [log / length for log, length in zip(logs, lengths[first:end], strict=True)]
        if options.belief == "shares":
            logs = [log - log_sum(logs) for log in logs]
        return sum(weight * log for (_, weight), log in zip(answers, logs, strict=True))

    return [
        [[belief(first, answers) for first in row] for row in rows]
        for rows, answers in zip(indices, targets, strict=True)
    ]


def log_sum(logs: Sequence[float]) -> float:
    """log of the sum of exp of one or more numbers."""
    top = max(logs)
    return top + math.log(math.fsum(math.exp(value - top) for value in logs))
