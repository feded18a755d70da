"""The learning rate of an update. It depends on the update's number alone: there is no state to
restore.
"""

from __future__ import annotations

from tspo_cli.config.schema import OptimizerConfig


def learning_rate(config: OptimizerConfig, update: int, total_updates: int) -> float:
    """Rate of update `update` (from 0) of `total_updates`: linear warm-up, then constant or linear
    to final_lr * lr.
    """
    if update < config.warmup:
        return config.lr * (update + 1) / config.warmup
    if config.schedule == "constant":
        return config.lr
    progress = (update - config.warmup) / max(1, total_updates - config.warmup)
    return config.lr * (1 - (1 - config.final_lr) * min(1.0, progress))
