"""Passes over demonstrations, as training steps."""

from __future__ import annotations

import math

from tspo_cli.config.schema import Config


def with_steps_of_epochs(config: Config) -> Config:
    """`config` with the train.steps that train.epochs asks for: every demonstration that is not
    held out comes train.epochs times, the last batch is filled. Without epochs it stays as it is.

    Raises:
        InvalidInputError, MissingResourceError: demonstrations that cannot be read.
    """
    if not config.train.epochs:
        return config
    from tspo_cli.training.sft.held_out import split_demonstrations
    from tspo_cli.training.sft.sft_step import recorded_demonstrations

    trained, _ = split_demonstrations(config, recorded_demonstrations(config))
    # A share such as 0.1 of 30 must not become 4 by the last bit of a product.
    drawn = round(config.train.epochs * len(trained), 6)
    steps = max(1, math.ceil(drawn / config.train.batch_size))
    return config.model_copy(update={"train": config.train.model_copy(update={"steps": steps})})
