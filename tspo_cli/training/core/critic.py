"""The value model of PPO: its loss on top of the training core."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from tspo_cli.config.schema import Config
from tspo_cli.training.core.losses import clipped_value_loss
from tspo_cli.training.core.micro_batches import MicroBatch
from tspo_cli.training.core.sequences import TrainSequence
from tspo_cli.training.core.training_core import TokenLoss, TrainingCore, prepare_model


class ValueModel(nn.Module):
    """A copy of the policy's body, with a head of one number per position that starts at 0."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.base_model = copy.deepcopy(policy.base_model)
        first = next(self.base_model.parameters())
        self.head = nn.Linear(policy.config.hidden_size, 1, dtype=first.dtype, device=first.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)


class ValuePositions(nn.Module):
    """A value model that computes values at trained positions alone."""

    def __init__(self, model: ValueModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Values of the states before the trained tokens, [N] in float32, and zeros [N]: the core
        expects two outputs.
        """
        hidden = batch.hidden(self.model.base_model)
        values = batch.spread(self.model.head(hidden).squeeze(-1).float())
        return values, torch.zeros_like(values)


class Critic:
    """A value model under training, see `TrainingCore`."""

    def __init__(self, model: ValueModel, config: Config, *, total_updates: int) -> None:
        """Train `model` with learning rate and warm-up of config.critic, and config.optimizer for
        everything else.
        """
        self.options = config.critic
        optimizer = config.optimizer.model_copy(
            update={"lr": config.critic.lr, "warmup": config.critic.warmup}
        )
        prepare_model(model, config)
        self.core = TrainingCore(ValuePositions(model), config, optimizer, total_updates)

    def update_values(self, sequences: Sequence[TrainSequence]) -> dict[str, float]:
        """One update of the clipped value loss towards `returns`, mean over sampled tokens.
        Metrics: value_loss, critic_grad_norm, critic_lr.
        """
        metrics = self.core.update(sequences, self._loss)
        return {
            "value_loss": metrics["loss"],
            "critic_grad_norm": metrics["grad_norm"],
            "critic_lr": metrics["lr"],
        }

    def values(self, sequences: Sequence[TrainSequence]) -> list[list[float]]:
        """The value of the state before each trained token, [len(sequences)][T], 0 where the weight
        is 0.
        """
        with self.core.clock.part("values"):
            return self.core.forward(sequences)

    def _loss(self, batch: MicroBatch, values: torch.Tensor, zeros: torch.Tensor) -> TokenLoss:
        return TokenLoss(
            clipped_value_loss(values, batch.old_values, batch.returns, self.options.value_clip)
        )
