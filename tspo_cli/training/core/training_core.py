"""The one DeepSpeed core: optimiser updates and forward passes of any token-level model, on one CPU
process as on many GPUs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import compress
from typing import Any

import torch
from torch import nn

from tspo_cli.config.schema import Config, OptimizerConfig
from tspo_cli.cpu_threads import optimizer_threads
from tspo_cli.errors import TspoError
from tspo_cli.freed_memory import keep_freed_memory
from tspo_cli.models.checks.model_size import is_large_on_cpu
from tspo_cli.models.compiled import compile_pointwise
from tspo_cli.models.packed_attention import enable_packing
from tspo_cli.timing import Clock
from tspo_cli.training.core.balancing import Exchange
from tspo_cli.training.core.deepspeed_setup import deepspeed_config
from tspo_cli.training.core.distributed import all_max, all_sum, world_size
from tspo_cli.training.core.losses import token_shares
from tspo_cli.training.core.micro_batches import MicroBatch, micro_batches, padding_batch
from tspo_cli.training.core.optimizer_state import learning_rate, set_update_count
from tspo_cli.training.core.sequences import TrainSequence
from tspo_cli.training.core.stop_points import between_batches, weights_change


@dataclass(frozen=True, slots=True)
class TokenLoss:
    """The loss of each trained token of a micro-batch [N], and values [N] for the metrics.

    `summed` are added up with the coefficients of the loss. `averaged` become means over the tokens
    that went through the model, `agent_averaged` means over tokens of weight 1 and more. Of
    `largest` the maximum is kept.
    """

    loss: torch.Tensor
    summed: dict[str, torch.Tensor] = field(default_factory=dict)
    averaged: dict[str, torch.Tensor] = field(default_factory=dict)
    agent_averaged: dict[str, torch.Tensor] = field(default_factory=dict)
    largest: dict[str, torch.Tensor] = field(default_factory=dict)


LossFunction = Callable[[MicroBatch, torch.Tensor, torch.Tensor], TokenLoss]
"""(micro-batch, first output [N], second output [N] of the model) -> loss."""

Forward = Callable[[MicroBatch], tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class _Work:
    """What this process does for one update: its micro-batches, and how many tokens (summed
    weights) all processes send through the model, and how many of weight 1 and more there are.
    """

    batches: list[MicroBatch]
    seen_tokens: float
    agent_tokens: float


def prepare_model(model: Any, config: Config) -> None:
    """Switch on what config.train asks of a model: packing, gradient checkpointing, compilation."""
    if config.train.packing:
        enable_packing(model.base_model)
    if config.train.gradient_checkpointing:
        model.base_model.gradient_checkpointing_enable(
            gradient_checkpointing_kwargs={"use_reentrant": False}
        )
    if config.train.compile:
        compile_pointwise(model)
    _leave_out_noise(model)


def _leave_out_noise(model: nn.Module) -> None:
    """Eval mode, in updates too: with dropout, the policy that is trained would not be the one that
    rolled out.

    Gradient checkpointing acts in training mode alone. Its modules get that mode during an update
    (`_checkpointing`), and the dropout in their own code is set to 0.
    """
    model.eval()
    for module in model.modules():
        if getattr(module, "gradient_checkpointing", False):
            noise = [name for name in vars(module) if "drop" in name]
            vars(module).update({name: 0.0 for name in noise if vars(module)[name]})


@contextmanager
def _checkpointing(model: nn.Module) -> Iterator[None]:
    """Within it, layers with gradient checkpointing are computed again in the backward pass."""
    modules = [part for part in model.modules() if getattr(part, "gradient_checkpointing", False)]
    for module in modules:
        module.training = True
    try:
        yield
    finally:
        for module in modules:
            module.training = False


class TrainingCore:
    """A model under training.

    Every process calls the same methods with its own share of the sequences. Losses, metrics and
    gradients are those of the union, whatever the number of processes and the ZeRO stage. `updates`
    counts optimiser updates, and `rate_scale` multiplies their learning rates; `clock` has the
    seconds of their parts, and `computed_tokens` the tokens that this process took through forward
    and backward pass, prompts and passages included. `before_change` is called before any weights
    change.
    """

    before_change: Callable[[], None] = staticmethod(lambda: None)

    def __init__(
        self, module: nn.Module, config: Config, optimizer: OptimizerConfig, total_updates: int
    ) -> None:
        """Train `module`, which is on its device and has a Hugging Face model as `module.model`. It
        maps a micro-batch to two values per trained token [N]. Call `init_distributed` first.
        """
        import deepspeed

        self.config, self.optimizer, self.total_updates = config, optimizer, total_updates
        self.updates, self.clock, self.computed_tokens = 0, Clock(), 0
        self.rate_scale = 1.0
        first = next(module.parameters())
        large = is_large_on_cpu(module)
        if large:
            keep_freed_memory()
        adam = torch.optim.AdamW(
            [parameter for parameter in module.parameters() if parameter.requires_grad],
            # Every update sets its own rate; DeepSpeed may make a step to create the moments.
            lr=0.0,
            betas=optimizer.betas,
            eps=optimizer.eps,
            weight_decay=optimizer.weight_decay,
            # One pass over the state, which is several times as large as the model, and no copies.
            # An offloaded optimiser has it too: its state lies in CPU memory.
            fused=large or first.is_cuda,
        )
        self.engine, *_ = deepspeed.initialize(
            model=module,
            optimizer=adam,
            config=deepspeed_config(config, bfloat16=first.dtype == torch.bfloat16),
            dist_init_required=False,
        )
        self.zero_stage = int(self.engine.zero_optimization_stage())
        self.is_large_on_cpu = large
        choice = config.train.share_prefixes
        saves = large or config.tree.grows
        self._shares_prefixes = choice == "always" or (choice == "auto" and saves)
        set_update_count(self.engine, 0)

    @property
    def module(self) -> Any:
        """The model. At ZeRO 3 its parameters are only shards."""
        return self.engine.module.model

    @property
    def is_bfloat16(self) -> bool:
        """True where the model computes in bfloat16."""
        return bool(self.engine.bfloat16_enabled())

    @property
    def device(self) -> torch.device:
        """The device of the model and of micro-batches."""
        return torch.device(self.engine.device)

    def update(
        self,
        sequences: Sequence[TrainSequence],
        loss: LossFunction,
        *,
        aggregation: str = "token_mean",
        active: Sequence[bool] | None = None,
        before_step: Callable[[], None] | None = None,
    ) -> dict[str, float]:
        """One optimiser update. Metrics: loss, those of `loss`, grad_norm, lr, tokens.

        Sequences that are not `active` (None: all are) do not go through the model. They count in
        the denominators of the loss (`token_shares`) all the same. `before_step` is called between
        the gradients and the optimiser's step; it may refuse the step with an error.

        Raises:
            TspoError: the gradient is not finite.
        """
        work = self._work(sequences, aggregation, active)
        rate = learning_rate(self.optimizer, self.updates, self.total_updates) * self.rate_scale
        self._set_rate(rate)
        with _checkpointing(self.module):
            metrics = self._accumulate(work, loss)
        if before_step is not None:
            before_step()
        with self.clock.part("optimizer"), optimizer_threads(self.config):
            norm = self._step()
        self.updates += 1
        return metrics | {"grad_norm": norm, "lr": rate, "tokens": work.agent_tokens}

    @torch.no_grad()
    def forward(
        self, sequences: Sequence[TrainSequence], model: Forward | None = None
    ) -> list[list[float]]:
        """The first output of `model` (default: the one that is trained) for each trained token,
        [len(sequences)][T], 0 where the weight is 0.
        """
        exchange = Exchange.of(sequences) if self._balances() else None
        if exchange is not None:
            sequences, _ = exchange.spread(sequences, [row.weights for row in sequences])
        values = [[0.0] * len(sequence.token_ids) for sequence in sequences]
        for batch in self._batches(sequences, [row.weights for row in sequences]):
            between_batches()
            outputs = (model or self.engine)(batch)[0].tolist()
            for number, index, value in zip(
                batch.sequences.tolist(), batch.indices.tolist(), outputs, strict=True
            ):
                if not batch.is_padding:
                    values[batch.members[number]][index] = value
        return values if exchange is None else exchange.collect(values)

    def allocate_moments(self) -> None:
        """Make the optimiser create its moments, with an update that changes nothing (rate 0,
        gradients 0).
        """
        self._set_rate(0.0)
        batch = padding_batch(packed=self.config.train.packing).to(self.device)
        self.engine.set_gradient_accumulation_boundary(True)
        self.engine.backward(
            (self.engine(batch)[0] * batch.coefficients).sum(), scale_wrt_gas=False
        )
        self.engine.step()

    def _work(
        self, sequences: Sequence[TrainSequence], aggregation: str, active: Sequence[bool] | None
    ) -> _Work:
        rollout = self.config.rollout
        longest = self.config.loss.sum_length or (rollout.max_searches + 1) * rollout.max_new_tokens
        shares = token_shares(sequences, aggregation, all_sum, longest)
        agent_tokens = all_sum(
            [sum(weight >= 1 for sequence in sequences for weight in sequence.weights)]
        )[0]
        if active is not None:
            sequences, shares = list(compress(sequences, active)), list(compress(shares, active))
        seen_tokens = all_sum([sum(sum(sequence.weights) for sequence in sequences)])[0]
        if self._balances():
            sequences, shares = Exchange.of(sequences).spread(sequences, shares)
        return _Work(self._batches(sequences, shares), seen_tokens, agent_tokens)

    def _accumulate(self, work: _Work, loss: LossFunction) -> dict[str, float]:
        """Add up the gradients of all micro-batches; returns the metrics of the loss."""
        sums: dict[str, float] = {}
        maxima: dict[str, float] = {}
        summed = {"loss"}
        for number, batch in enumerate(work.batches, 1):
            between_batches()
            self.engine.set_gradient_accumulation_boundary(number == len(work.batches))
            with self.clock.part("forward_backward"):
                parts = loss(batch, *self.engine(batch))
                total = (parts.loss * batch.coefficients).sum()
                # DeepSpeed averages gradients over the processes; the shares already sum to one
                # over all of them.
                self.engine.backward(total * world_size(), scale_wrt_gas=False)
                _add(sums, "loss", total.detach())
            is_real = not batch.is_padding
            self.computed_tokens += batch.token_ids.numel() * is_real
            for name, values in parts.summed.items():
                summed.add(name)
                _add(sums, name, (values * batch.coefficients).sum())
            for name, values in parts.averaged.items():
                mean = (values * batch.weights).sum() / max(work.seen_tokens, 1)
                _add(sums, name, mean * is_real)
            for name, values in parts.agent_averaged.items():
                mean = (values * (batch.weights >= 1)).sum() / max(work.agent_tokens, 1)
                _add(sums, name, mean * is_real)
            for name, values in parts.largest.items():
                value = float(values.max()) if is_real else 0.0
                maxima[name] = max(maxima.get(name, 0.0), value)
        names = sorted(sums)
        metrics = dict(zip(names, all_sum([sums[name] for name in names]), strict=True))
        metrics |= {name: all_max(value) for name, value in maxima.items()}
        if not work.seen_tokens:  # means and maxima over no token
            metrics = {name: value for name, value in metrics.items() if name in summed}
        return metrics

    def _step(self) -> float:
        """The optimiser's step; returns the gradient norm before clipping."""
        self.before_change()
        weights_change()
        norm = None
        if self.zero_stage == 0 and not self.is_bfloat16:
            gradients = [
                parameter.grad
                for parameter in self.module.parameters()
                if parameter.grad is not None
            ]
            norm = float(nn.utils.get_total_norm(gradients)) if gradients else 0.0
        self.engine.step()
        norm = float(self.engine.get_global_grad_norm() or 0.0) if norm is None else norm
        if not math.isfinite(norm) or norm < 0:  # DeepSpeed reports some that are not finite as -1
            raise TspoError(
                f"update {self.updates + 1}: the gradient is not finite; lower optimizer.lr or set "
                "optimizer.grad_clip"
            )
        return norm

    def _set_rate(self, rate: float) -> None:
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate

    def _balances(self) -> bool:
        return world_size() > 1 and self.config.train.balance_ranks

    def _batches(
        self, sequences: Sequence[TrainSequence], shares: Sequence[Sequence[float]]
    ) -> list[MicroBatch]:
        """Micro-batches on the device; every process gets the same number of them."""
        packed = self.config.train.packing
        batches = micro_batches(
            sequences,
            shares,
            self.config.train.tokens_per_micro_batch,
            packed=packed,
            shared=self._shares_prefixes,
        )
        count = int(all_max(float(max(1, len(batches)))))
        batches += [padding_batch(packed=packed)] * (count - len(batches))
        return [batch.to(self.device) for batch in batches]


def _add(sums: dict[str, float], name: str, value: torch.Tensor) -> None:
    sums[name] = sums.get(name, 0.0) + float(value)
