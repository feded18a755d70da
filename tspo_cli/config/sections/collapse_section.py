"""The section of an experiment file about policies that collapse: when to warn, and remedies."""

from __future__ import annotations

from pydantic import Field

from tspo_cli.config.sections.section import Section


class CollapseConfig(Section):
    """Early warnings of a collapse: the mean of a metric over the last steps has fallen below its
    best mean before. train.on_warning says what follows.
    """

    window: int = Field(10, ge=1, description="Steps of a mean. Two of them come before a warning.")
    logprob: float = Field(
        0.25,
        ge=0,
        description=(
            "Warn when correct_logprob, the likelihood of correct rollouts, has fallen by this "
            "(nats per token). 0: never."
        ),
    )
    searches: float = Field(
        0.5, ge=0, le=1, description="Warn when this share of the searches is gone. 0: never."
    )
    answered: float = Field(
        0.25,
        ge=0,
        le=1,
        description="Warn when answered_share has fallen by this (answer avoidance). 0: never.",
    )
    entropy: float = Field(
        0.9, ge=0, le=1, description="Warn when this share of the entropy is gone. 0: never."
    )
    lr_factor: float = Field(
        0.5, gt=0, lt=1, description="lower_lr: the learning rate is multiplied by this."
    )
    most: int = Field(
        3,
        ge=1,
        description="lower_lr, reset_to_best: most times in a run; later warnings are only said.",
    )
