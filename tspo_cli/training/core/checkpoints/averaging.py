"""The mean of the weights of a run's last checkpoints, as Vaswani et al. (2017, "Attention is all
you need", 6.1) evaluated their models.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

from tspo_cli.config.schema import Config
from tspo_cli.training.core.checkpoints.checkpoint import policy_state
from tspo_cli.training.core.optimizer_state import set_parameters
from tspo_cli.training.core.training_core import TrainingCore

if TYPE_CHECKING:
    import torch


def averaged_steps(config: Config, last: int) -> list[int]:
    """The steps whose weights a run that ends with step `last` averages: that step, and those of
    the checkpoints before it that checkpoint.every asks for, train.average_checkpoints in all. A
    checkpoint that a signal or the clock asked for has no part in it.
    """
    every, count = config.checkpoint.every, config.train.average_checkpoints
    if count < 2 or not every:
        return []
    before = range((last - 1) // every * every, 0, -every)
    return [last, *before[: count - 1]]


def load_mean(policy: TrainingCore, checkpoints: Sequence[Path]) -> None:
    """Give the policy the mean of the weights of `checkpoints`, which are whole and of its run. Its
    optimiser's moments stay. All processes call it.

    Raises:
        MissingResourceError, InvalidInputError: a checkpoint cannot be read.
    """
    policy.before_change()
    with ExitStack() as stack:
        states = [stack.enter_context(closing(policy_state(folder))) for folder in checkpoints]

        def mean(name: str) -> torch.Tensor:
            total = states[0][f"param.{name}"].double()
            for state in states[1:]:
                total += state[f"param.{name}"]
            return (total / len(states)).float()

        set_parameters(policy.engine, policy.module, mean)
