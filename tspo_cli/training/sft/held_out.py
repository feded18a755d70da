"""Demonstrations that are not trained on, and the policy's loss on them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tspo_cli.config.schema import Config
from tspo_cli.console import agreeing, counted
from tspo_cli.errors import InvalidInputError
from tspo_cli.rollout.protocol import SearchProtocol
from tspo_cli.training.core.distributed import all_sum, rank, world_size
from tspo_cli.training.core.policy_learner import PolicyLearner
from tspo_cli.training.core.sequences import ScriptedTrajectory, demonstration_sequence
from tspo_cli.training.sft.demonstration_file import read_demonstrations

_DRAW = 7  # keeps the split apart from other draws of the same seed


def split_demonstrations(
    config: Config, demonstrations: Sequence[ScriptedTrajectory]
) -> tuple[list[ScriptedTrajectory], list[ScriptedTrajectory]]:
    """Those to train on, and those that config.data holds out. A share is of questions: all
    demonstrations of a question are on one side.

    Raises:
        InvalidInputError: a share that leaves one side empty, or a question on both sides.
        InvalidInputError, MissingResourceError: as `read_demonstrations`.
    """
    if config.data.held_out:
        held = [found for name in config.data.held_out for found in read_demonstrations(Path(name))]
        both = {made.question for made in held} & {made.question for made in demonstrations}
        if both:
            are = agreeing(len(both), "of its questions is", "of its questions are")
            raise InvalidInputError(
                f"data.held_out: {are} in data.demonstrations too, such as {min(both)!r}; remove "
                f"{'it' if len(both) == 1 else 'them'} from one of the two"
            )
        return list(demonstrations), held
    if not config.data.held_out_share:
        return list(demonstrations), []
    questions = list(dict.fromkeys(made.question for made in demonstrations))
    count = round(config.data.held_out_share * len(questions))
    if not 0 < count < len(questions):
        raise InvalidInputError(
            f"data.held_out_share: {config.data.held_out_share:g} of "
            f"{counted(len(questions), 'question')} holds out {count}; change it, or name files in "
            "data.held_out"
        )
    order = np.random.default_rng([config.seed, _DRAW]).permutation(len(questions))
    chosen = {questions[int(place)] for place in order[:count]}
    return (
        [made for made in demonstrations if made.question not in chosen],
        [made for made in demonstrations if made.question in chosen],
    )


def held_out_loss(
    learner: PolicyLearner, protocol: SearchProtocol, demonstrations: Sequence[ScriptedTrajectory]
) -> float:
    """Mean negative log-likelihood (nats per token) of what the agent says in them, over all
    processes; nothing is trained.
    """
    mine = list(demonstrations[rank() :: world_size()])
    if len(demonstrations) < world_size():  # every process needs work, and shares are equal then
        mine = list(demonstrations)
    sequences = [demonstration_sequence(made, protocol, 0.0) for made in mine]
    was_training = learner.module.training
    learner.module.eval()
    try:
        logprobs = learner.logprobs(sequences)
    finally:
        learner.module.train(was_training)
    tokens = sum(sum(sequence.weights) for sequence in sequences)
    total, count = all_sum([-sum(map(sum, logprobs)), tokens])
    return total / count
