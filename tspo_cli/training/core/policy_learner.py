"""The policy under training: its losses on top of the training core."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from tspo_cli.config.schema import Config
from tspo_cli.models.logprobs import head_scores
from tspo_cli.models.lora import adapters_off
from tspo_cli.models.own_logits import logit_function
from tspo_cli.training.core.deepspeed_setup import frozen_config
from tspo_cli.training.core.distributed import all_max, all_sum
from tspo_cli.training.core.losses import clipped_policy_loss
from tspo_cli.training.core.micro_batches import PADDING_LENGTH, MicroBatch
from tspo_cli.training.core.sequences import TrainSequence
from tspo_cli.training.core.training_core import Forward, TokenLoss, TrainingCore, prepare_model

Entropy = Literal["none", "logged", "trained"]


class TrainedPositions(nn.Module):
    """A causal language model that computes logits at trained positions alone."""

    def __init__(self, model: Any, temperature: float, entropy: Entropy) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.entropy = entropy
        self.vocabulary = int(model.get_output_embeddings().weight.shape[0])
        self._logits_of = (logit_function(model),)  # in a tuple: it is no second submodule

    def forward(self, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities (nats) of the targets and entropies of their distributions (0 where
        they are not asked for), both [N] in float32.
        """
        hidden = batch.hidden(self.model.base_model)
        logprobs, entropies = head_scores(
            hidden,
            self._logits_of[0],
            self.vocabulary,
            batch.targets,
            self.temperature,
            self.entropy,
        )
        return batch.spread(logprobs), batch.spread(entropies)


class PolicyLearner:
    """A policy under training: policy updates, imitation, and log-probabilities.

    Every process calls the same methods with its own share of the sequences, see `TrainingCore`.
    `reference` is the starting policy, where the experiment compares with it.
    """

    def __init__(
        self, model: Any, config: Config, *, total_updates: int, temperature: float = 1.0
    ) -> None:
        """Train `model`, which is on its device. Call `init_distributed` first."""
        temperature = temperature if config.kind != "sft" else 1.0
        self.config = config
        self.reference: Forward | None = None
        if config.kind == "rl" and (config.loss.kl > 0 or config.loss.log_kl):
            self.reference = _reference_policy(model, config, temperature)
        prepare_model(model, config)
        policy = TrainedPositions(model, temperature, _entropy(config))
        self.core = TrainingCore(policy, config, config.optimizer, total_updates)

    @property
    def module(self) -> Any:
        """The Hugging Face model. At ZeRO 3 its parameters are only shards."""
        return self.core.module

    def update_policy(
        self,
        sequences: Sequence[TrainSequence],
        check: Callable[[torch.Tensor], None] | None = None,
    ) -> dict[str, float]:
        """One update with the clipped policy loss.

        `check` gets the log-probabilities minus the old ones [N] (nats, float64) of this process's
        trained tokens, before the optimiser's step, and may refuse the step with an error.

        Metrics: loss, policy_loss, kl, entropy, clip_fraction, ratio_mean, ratio_max, grad_norm,
        lr, tokens, dropped. `dropped` counts sequences whose advantages are all zero: they add
        nothing to the gradient, so they do not go through the model, but they count in the loss's
        denominators.
        """
        active = [self.has_gradient(sequence) for sequence in sequences]
        dropped = all_sum([len(active) - sum(active)])[0]
        changes: list[torch.Tensor] = []

        def loss(batch: MicroBatch, logprobs: torch.Tensor, entropy: torch.Tensor) -> TokenLoss:
            if check is not None and not batch.is_padding:
                changes.append(logprobs.detach().double() - batch.old_logprobs.double())
            return self._policy_loss(batch, logprobs, entropy)

        def before_step() -> None:
            if check is not None:
                check(torch.cat([torch.empty(0, dtype=torch.float64), *changes]))

        metrics = self.core.update(
            sequences,
            loss,
            aggregation=self.config.loss.aggregation,
            active=active,
            before_step=before_step,
        )
        return metrics | {"dropped": dropped}

    def update_sft(self, sequences: Sequence[TrainSequence]) -> dict[str, float]:
        """One update of the weighted mean negative log-likelihood. Metrics: loss, agent_loss
        (tokens of weight 1 and more), grad_norm, lr, tokens.

        With loss.embedding_noise the losses are those with noise, which the seed and the update
        decide.
        """
        scale = self.config.loss.embedding_noise
        if not scale:
            return self.core.update(sequences, _likelihood_loss)
        longest = max((len(sequence.token_ids) for sequence in sequences), default=0)
        length = max(int(all_max(float(longest))), PADDING_LENGTH)
        seeds = (self.config.seed, self.core.updates)
        with _embedding_noise(self.module, scale, length, seeds):
            return self.core.update(sequences, _likelihood_loss)

    def logprobs(self, sequences: Sequence[TrainSequence]) -> list[list[float]]:
        """The policy's log-probabilities (nats) of the trained tokens, [len(sequences)][T], 0 where
        the weight is 0.
        """
        with self.core.clock.part("logprobs"):
            return self.core.forward(sequences)

    def reference_logprobs(self, sequences: Sequence[TrainSequence]) -> list[list[float]]:
        """The same under the starting policy.

        Raises:
            ValueError: the experiment keeps no reference policy (loss.kl is 0).
        """
        if self.reference is None:
            raise ValueError("no reference policy is kept: loss.kl is 0")
        return self.core.forward(sequences, self.reference)

    def logprob_gap(self, sequences: Sequence[TrainSequence]) -> float:
        """Mean absolute difference (nats) of `old_logprobs` from the policy's log-probabilities,
        over the trained tokens of all processes.
        """
        gaps = [
            abs(logprob - old)
            for sequence, logprobs in zip(sequences, self.logprobs(sequences), strict=True)
            for logprob, old, weight in zip(
                logprobs, sequence.old_logprobs, sequence.weights, strict=True
            )
            if weight > 0
        ]
        total, count = all_sum([sum(gaps), len(gaps)])
        return total / max(count, 1.0)

    def has_gradient(self, sequence: TrainSequence) -> bool:
        """False where `update_policy` leaves the sequence out."""
        options = self.config.loss
        every_token = options.entropy > 0 or (options.kl > 0 and options.kl_in == "loss")
        return every_token or not self.config.train.drop_zero_advantage or any(sequence.advantages)

    def _policy_loss(
        self, batch: MicroBatch, logprobs: torch.Tensor, entropy: torch.Tensor
    ) -> TokenLoss:
        options = self.config.loss
        with torch.no_grad():
            reference = self.reference(batch)[0] if self.reference is not None else None
        pools = {"token": None, "turn": batch.segments, "sequence": batch.sequences}
        parts = clipped_policy_loss(
            logprobs,
            batch.old_logprobs,
            batch.advantages,
            entropy,
            reference,
            options,
            pools[options.ratio],
            batch.clip_scales,
        )
        return TokenLoss(
            parts.total,
            summed={"policy_loss": parts.policy},
            averaged={
                "kl": parts.kl,
                "entropy": entropy.detach(),
                "clip_fraction": parts.clipped.float(),
                "ratio_mean": parts.ratio,
            },
            largest={"ratio_max": parts.ratio},
        )


def _likelihood_loss(batch: MicroBatch, logprobs: torch.Tensor, entropy: torch.Tensor) -> TokenLoss:
    return TokenLoss(-logprobs, agent_averaged={"agent_loss": -logprobs.detach()})


@contextmanager
def _embedding_noise(model: Any, scale: float, length: int, seeds: Sequence[int]) -> Iterator[None]:
    """Within it, the embeddings [B, T, d] of the causal language model `model` have noise: each
    number gets one drawn evenly from -1 to 1, times `scale` / sqrt(`length` d). It is NEFTune
    (Jain et al. 2023, arXiv:2310.05914, Algorithm 1).

    The noise depends on `seeds` and on the token's position in its sequence, 0 to `length` - 1,
    alone: it is the same however sequences are packed and divided among processes.
    """
    embeddings = model.get_input_embeddings()
    table = torch.empty(0)
    positions = torch.empty(0)

    def remember(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        nonlocal positions
        positions = kwargs["position_ids"]

    def add(module: Any, args: Any, output: torch.Tensor) -> torch.Tensor:
        nonlocal table
        if table.numel() == 0:
            drawn = np.random.default_rng(seeds).random((length, output.shape[-1]), np.float32)
            size = scale / math.sqrt(length * output.shape[-1])
            table = torch.from_numpy((2 * drawn - 1) * np.float32(size)).to(output)
        return output + table[positions]

    hooks = (
        model.base_model.register_forward_pre_hook(remember, with_kwargs=True),
        embeddings.register_forward_hook(add),
    )
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _entropy(config: Config) -> Entropy:
    if config.kind != "rl":
        return "none"
    return "trained" if config.loss.entropy else "logged"


def _is_sharded(config: Config) -> bool:
    """True where the reference's parameters are divided by the processes: at ZeRO 3, or in CPU
    memory.
    """
    return config.deepspeed.zero_stage == 3 or config.deepspeed.offload_reference


def _reference_policy(model: Any, config: Config, temperature: float) -> Forward:
    """The log-probabilities (nats) of `model` as it is now, whatever becomes of it.

    With adapters it is the same model without them, which needs no memory. Else it is a copy:
    whole, or sharded by DeepSpeed (`_is_sharded`). All processes call the result equally often.
    """
    if config.lora.rank:
        module = TrainedPositions(model, temperature, "none")

        def without_adapters(batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
            with adapters_off(model):
                outputs: tuple[torch.Tensor, torch.Tensor] = module(batch)
            return outputs

        return without_adapters
    frozen = copy.deepcopy(model).eval().requires_grad_(False)
    prepare_model(frozen, config)
    module = TrainedPositions(frozen, temperature, "none")
    return _sharded(module, config) if _is_sharded(config) else module


def _sharded(module: nn.Module, config: Config) -> Forward:
    import deepspeed

    first = next(module.parameters())
    engine, *_ = deepspeed.initialize(
        model=module,
        config=frozen_config(
            bfloat16=first.dtype == torch.bfloat16,
            offload=config.deepspeed.offload_reference,
            pin=first.is_cuda,
        ),
        dist_init_required=False,
    )
    engine.eval()
    forward: Forward = engine
    return forward
