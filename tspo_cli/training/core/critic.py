"""The value model of PPO, trained by the same core as the policy."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from tspo_cli.config.schema import Config, LossConfig, OptimizerConfig
from tspo_cli.training.core.batching import MicroBatch, TrainSequence
from tspo_cli.training.core.learner import Learner, picked_states
from tspo_cli.training.core.losses import clipped_value_loss


class ValueModel(nn.Module):
    """The policy's body, copied, with one number per position for a head; the head starts at 0."""

    def __init__(self, policy: Any) -> None:
        super().__init__()
        self.base_model = copy.deepcopy(policy.base_model)
        first = next(self.base_model.parameters())
        self.head = nn.Linear(policy.config.hidden_size, 1, dtype=first.dtype, device=first.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)


class ValuePositions(nn.Module):
    """A value model that is asked at trained positions alone."""

    def __init__(self, model: ValueModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Values of the states before the trained tokens, and zeros in the place of entropies, both
        [N] in float32.
        """
        values = self.model.head(picked_states(self.model, batch)).squeeze(-1).float()
        return values, torch.zeros_like(values)


class Critic(Learner):
    """A value model under training: a learner whose outputs are values instead of
    log-probabilities.

    Its sequences carry returns as `advantages` and the values before the update as `old_logprobs`.
    """

    def __init__(self, model: ValueModel, config: Config, *, total_updates: int) -> None:
        """Take over `model`, with the learning rate of config.critic and the rest of
        config.optimizer.
        """
        own = config.critic
        options = config.optimizer.model_dump() | {"lr": own.lr, "warmup": own.warmup}
        changed = {"optimizer": OptimizerConfig(**options), "loss": LossConfig()}
        super().__init__(model, config.model_copy(update=changed), total_updates=total_updates)

    def update_values(self, sequences: Sequence[TrainSequence]) -> dict[str, float]:
        """One update of the clipped value loss, mean over sampled tokens. Metrics: value_loss,
        critic_grad_norm, critic_lr.
        """
        clip = self.config.critic.value_clip

        def loss(
            batch: MicroBatch, values: torch.Tensor, _: torch.Tensor
        ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            return clipped_value_loss(values, batch.old_logprobs, batch.advantages, clip), {}

        found = self._update(sequences, "token_mean", loss)
        return {
            "value_loss": found["loss"],
            "critic_grad_norm": found["grad_norm"],
            "critic_lr": found["lr"],
        }

    def values(self, sequences: Sequence[TrainSequence]) -> list[list[float]]:
        """The value of the state before each trained token, [len(sequences)][T], 0 where the weight
        is 0.
        """
        return self.logprobs(sequences)

    def _wrapped(self, model: Any, temperature: float) -> nn.Module:
        return ValuePositions(model)
