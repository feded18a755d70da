"""How probable a model finds the gold answer before each turn: the signal of information gains."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tspo_cli.credit.algorithms.algorithm import GoldLogprobOptions
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.rollout.trajectory import Trajectory
from tspo_cli.training.core.policy_learner import PolicyLearner
from tspo_cli.training.core.sequences import TrainSequence, continuation_sequence


def gold_logprobs(
    groups: Sequence[Sequence[Trajectory]],
    learner: PolicyLearner,
    protocol: SearchProtocol,
    options: GoldLogprobOptions,
) -> list[list[list[float]]]:
    """[group][trajectory][K]: the belief in the gold answer before each turn (nats): the mean
    log-probability of the first gold answer's tokens, or, with the belief "alias_sum", the log of
    the summed probabilities of the first `options.answers` gold answers.

    The answer stands after the prefix where the model would continue: after the prompt, and after
    the feedback of every turn but the last. The prompt is scored once for a group. Every process
    calls this with its own groups.
    """
    sequences: list[TrainSequence] = []
    # [group][trajectory][K]: the index in `sequences` of the first of `counts` answers
    indices: list[list[list[int]]] = []
    counts: list[int] = []
    for trajectories in groups:
        golds = trajectories[0].question.golden_answers[: options.answers]
        encoded = [protocol.belief_ids(options.belief_prefix, gold) for gold in golds]

        def ask(ids: Sequence[int], encoded: Sequence[tuple[list[int], list[int]]]) -> int:
            first = len(sequences)
            sequences.extend(
                continuation_sequence([*ids, *before], gold) for before, gold in encoded
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
        counts.append(len(golds))
    measure = learner.logprobs if options.teacher == "policy" else learner.reference_logprobs
    sums = [sum(logprobs) for logprobs in measure(sequences)]
    lengths = [sum(sequence.weights) for sequence in sequences]

    def belief(first: int, count: int) -> float:
        if options.belief == "alias_sum":
            return log_sum(sums[first : first + count])
        return sums[first] / lengths[first]

    return [
        [[belief(first, count) for first in row] for row in rows]
        for rows, count in zip(indices, counts, strict=True)
    ]


def log_sum(logs: Sequence[float]) -> float:
    """log of the sum of exp of one or more numbers."""
    top = max(logs)
    return top + math.log(math.fsum(math.exp(value - top) for value in logs))
