"""The one training core: SFT and policy updates on a DeepSpeed engine, on one CPU process as on
many GPUs.
"""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from transformers.utils.logging import disable_progress_bar

from tspo_cli.config.context import context_length
from tspo_cli.config.schema import Config
from tspo_cli.errors import TspoError
from tspo_cli.models.compiled import compile_pointwise
from tspo_cli.models.logprobs import head_scores
from tspo_cli.models.lora import merged, save_adapter
from tspo_cli.models.packed_attention import enable_packing
from tspo_cli.rollout.engines.engine_protocol import TokenizerLike
from tspo_cli.timing import Clock
from tspo_cli.training.core.balancing import Exchange
from tspo_cli.training.core.batching import MicroBatch, TrainSequence, micro_batches, padding_batch
from tspo_cli.training.core.deepspeed_setup import deepspeed_config
from tspo_cli.training.core.distributed import all_max, all_sum, barrier, rank, world_size
from tspo_cli.training.core.losses import clipped_policy_loss, token_shares
from tspo_cli.training.core.optimizer_state import full_parameters, set_update_count
from tspo_cli.training.core.schedule import learning_rate

Loss = Callable[
    [MicroBatch, torch.Tensor, torch.Tensor], tuple[torch.Tensor, dict[str, torch.Tensor]]
]
"""(micro-batch, log-probs [N], entropies [N]) -> loss per token [N], and values per token [N] for
the log.
"""


def picked_states(model: Any, batch: MicroBatch) -> torch.Tensor:
    """The last hidden states [N, d] at the positions that the trained tokens are predicted from."""
    return batch.hidden(model.base_model)


class TrainedPositions(nn.Module):
    """A causal language model that computes logits at trained positions alone."""

    def __init__(
        self, model: Any, temperature: float, entropy: Literal["none", "logged", "trained"]
    ) -> None:
        super().__init__()
        self.model = model
        self.temperature = temperature
        self.entropy = entropy

    def forward(self, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities (nats) of the targets and entropies of their distributions (0 where
        they are not wanted), both [N] in float32.
        """
        head = self.model.get_output_embeddings()
        return head_scores(
            picked_states(self.model, batch), head, batch.targets, self.temperature, self.entropy
        )


class Learner:
    """A policy under training.

    Every process calls the same methods with its own share of the sequences; losses, metrics and
    gradients are those of the union, whatever the number of processes and the ZeRO stage. `updates`
    counts optimiser updates.
    """

    def __init__(
        self, model: Any, config: Config, *, total_updates: int, temperature: float = 1.0
    ) -> None:
        """Take over `model` (already on its device). Call `init_distributed` first."""
        import deepspeed

        temperature = temperature if config.kind != "sft" else 1.0
        self.config, self.total_updates, self.updates = config, total_updates, 0
        self.clock = Clock()
        if config.train.packing:
            enable_packing(model.base_model, context_length(config))
        if config.train.gradient_checkpointing:
            model.base_model.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )
        compared = config.kind == "rl" and (config.loss.kl > 0 or config.loss.log_kl)
        self.reference = self._frozen(model, temperature) if compared else None
        if config.train.compile:
            for one in (model, self.reference) if compared else (model,):
                compile_pointwise(one)
        options, first = config.optimizer, next(model.parameters())
        optimizer = torch.optim.AdamW(
            [parameter for parameter in model.parameters() if parameter.requires_grad],
            # every update sets its own rate; DeepSpeed may make a step to create the moments
            lr=0.0,
            betas=options.betas,
            eps=options.eps,
            weight_decay=options.weight_decay,
            # One kernel and no copies of the state, which are several times the model.
            fused=first.device.type == "cuda" and not config.deepspeed.offload_optimizer,
        )
        self.engine, *_ = deepspeed.initialize(
            model=self._wrapped(model, temperature),
            optimizer=optimizer,
            config=deepspeed_config(config, bfloat16=first.dtype == torch.bfloat16),
            dist_init_required=False,
        )
        self.stage = int(self.engine.zero_optimization_stage())
        set_update_count(self.engine, 0)

    @property
    def module(self) -> Any:
        """The Hugging Face model. At ZeRO 3 its parameters are only shards."""
        return self.engine.module.model

    @property
    def half(self) -> bool:
        """True where the model computes in bfloat16."""
        return bool(self.engine.bfloat16_enabled())

    @property
    def device(self) -> torch.device:
        """Where micro-batches go."""
        return torch.device(self.engine.device)

    def update_policy(self, sequences: Sequence[TrainSequence]) -> dict[str, float]:
        """One update with the clipped policy loss. Metrics: loss, policy_loss, kl, entropy,
        clip_fraction, ratio_mean, ratio_max, grad_norm, lr, tokens, dropped (sequences whose
        advantages are all zero and which add nothing to the gradient: they count in the loss's
        denominators, but do not go through the model).
        """
        options = self.config.loss
        active = [self._has_gradient(one) for one in sequences]

        def loss(
            batch: MicroBatch, logprobs: torch.Tensor, entropy: torch.Tensor
        ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            with torch.no_grad():
                reference = self.reference(batch)[0] if self.reference is not None else None
            pools = {"token": None, "turn": batch.segments, "sequence": batch.sequences}[
                options.ratio
            ]
            parts = clipped_policy_loss(
                logprobs, batch.old_logprobs, batch.advantages, entropy, reference, options, pools
            )
            logged = {
                "policy_loss": parts.policy,
                "kl": parts.kl,
                "entropy": entropy.detach(),
                "clip_fraction": parts.clipped.float(),
                "ratio_mean": parts.ratio,
                "ratio_max": parts.ratio,
            }
            return parts.total, logged

        dropped = all_sum([len(active) - sum(active)])[0]
        return self._update(sequences, options.aggregation, loss, active) | {"dropped": dropped}

    def _has_gradient(self, sequence: TrainSequence) -> bool:
        options = self.config.loss
        everywhere = options.entropy > 0 or (options.kl > 0 and options.kl_in == "loss")
        return everywhere or not self.config.train.drop_zero_advantage or any(sequence.advantages)

    def update_sft(self, sequences: Sequence[TrainSequence]) -> dict[str, float]:
        """One update of the weighted mean negative log-likelihood. Metrics: loss, agent_loss
        (tokens of weight 1 and more), grad_norm, lr, tokens.
        """

        def loss(
            batch: MicroBatch, logprobs: torch.Tensor, entropy: torch.Tensor
        ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            return -logprobs, {"agent_loss": -logprobs.detach()}

        return self._update(sequences, "token_mean", loss)

    def _update(
        self,
        sequences: Sequence[TrainSequence],
        aggregation: str,
        loss: Loss,
        active: Sequence[bool] | None = None,
    ) -> dict[str, float]:
        """One update on the `active` sequences (None: all), each with its share of the loss among
        all.
        """
        rollout = self.config.rollout
        most = self.config.loss.sum_length or (rollout.max_searches + 1) * rollout.max_new_tokens
        shares = token_shares(sequences, aggregation, all_sum, most)
        agent_tokens = all_sum([sum(weight >= 1 for one in sequences for weight in one.weights)])[0]
        if active is not None:
            sequences, shares = list(compress(sequences, active)), list(compress(shares, active))
        seen = all_sum([sum(sum(one.weights) for one in sequences)])[0]
        if self._balanced():
            sequences, shares = Exchange.of(sequences).spread(sequences, shares)
        sums: dict[str, float] = {}
        peak = 0.0
        batches = self._aligned(sequences, shares)
        rate = learning_rate(self.config.optimizer, self.updates, self.total_updates)
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        self.module.train()
        for place, batch in enumerate(batches):
            self.engine.set_gradient_accumulation_boundary(place == len(batches) - 1)
            with self.clock.part("forward_backward"):
                logprobs, entropy = self.engine(batch)
                per_token, logged = loss(batch, logprobs, entropy)
                total = (per_token * batch.coefficients).sum()
                # DeepSpeed averages gradients over the processes; the shares already sum to one
                # over all of them.
                self.engine.backward(total * world_size(), scale_wrt_gas=False)
                _add(sums, "loss", total.detach())
            real = batch.members != (-1,)
            for name, values in logged.items():
                if name == "policy_loss":
                    _add(sums, name, (values * batch.coefficients).sum())
                elif name == "ratio_max":
                    peak = max(peak, float(values.max()) if real else 0.0)
                elif name == "agent_loss":
                    _add(
                        sums,
                        name,
                        (values * (batch.weights >= 1)).sum() / max(agent_tokens, 1) * real,
                    )
                else:
                    _add(sums, name, (values * batch.weights).sum() / max(seen, 1) * real)
        with self.clock.part("optimizer"):
            norm = self._step()
        self.module.eval()
        self.updates += 1
        names = sorted(sums)
        metrics = dict(zip(names, all_sum([sums[name] for name in names]), strict=True))
        if "ratio_mean" in metrics:
            metrics["ratio_max"] = all_max(peak)
        if not seen:  # means over no token
            metrics = {
                name: value for name, value in metrics.items() if name in ("loss", "policy_loss")
            }
        return metrics | {"grad_norm": norm, "lr": rate, "tokens": agent_tokens}

    def _step(self) -> float:
        """The optimiser's step; returns the gradient norm before clipping.

        Raises:
            TspoError: the gradient is not finite.
        """
        norm = None
        if self.stage == 0 and not self.engine.bfloat16_enabled():
            gradients = [one.grad for one in self.module.parameters() if one.grad is not None]
            norm = float(nn.utils.get_total_norm(gradients)) if gradients else 0.0
        self.engine.step()
        norm = float(self.engine.get_global_grad_norm() or 0.0) if norm is None else norm
        if not math.isfinite(norm) or norm < 0:  # DeepSpeed reports some that are not finite as -1
            raise TspoError(
                f"update {self.updates + 1}: the gradient is not finite; lower optimizer.lr or set "
                "optimizer.grad_clip"
            )
        return norm

    def allocate_moments(self) -> None:
        """Make the optimiser create its moments, with an update that changes nothing (rate 0,
        gradients 0).
        """
        for group in self.engine.optimizer.param_groups:
            group["lr"] = 0.0
        batch = padding_batch(packed=self.config.train.packing).to(self.device)
        self.engine.set_gradient_accumulation_boundary(True)
        self.engine.backward(
            (self.engine(batch)[0] * batch.coefficients).sum(), scale_wrt_gas=False
        )
        self.engine.step()

    def logprobs(self, sequences: Sequence[TrainSequence]) -> list[list[float]]:
        """The policy's log-probabilities of the trained tokens, [len(sequences)][T], 0 where the
        weight is 0.
        """
        with self.clock.part("logprobs"):
            return self._logprobs(sequences, self.engine)

    def reference_logprobs(self, sequences: Sequence[TrainSequence]) -> list[list[float]]:
        """The same under the starting policy. Raises ValueError where config.loss.kl keeps none."""
        if self.reference is None:
            raise ValueError("no reference policy is kept: loss.kl is 0")
        return self._logprobs(sequences, self.reference)

    @torch.no_grad()
    def _logprobs(
        self, sequences: Sequence[TrainSequence], policy: Callable[..., Any]
    ) -> list[list[float]]:
        exchange = Exchange.of(sequences) if self._balanced() else None
        if exchange is not None:
            sequences, _ = exchange.spread(sequences, [one.weights for one in sequences])
        values = [[0.0] * len(one.token_ids) for one in sequences]
        for batch in self._aligned(sequences, [one.weights for one in sequences]):
            scored = policy(batch)[0].tolist()
            for number, place, value in zip(
                batch.sequences.tolist(), batch.places.tolist(), scored, strict=True
            ):
                if batch.members[number] >= 0:
                    values[batch.members[number]][place] = value
        return values if exchange is None else exchange.collect(values)

    def _balanced(self) -> bool:
        return world_size() > 1 and self.config.train.balance_ranks

    def _aligned(
        self, sequences: Sequence[TrainSequence], shares: Sequence[Sequence[float]]
    ) -> list[MicroBatch]:
        """Micro-batches on the device, as many on every process."""
        packed = self.config.train.packing
        batches = micro_batches(
            sequences, shares, self.config.train.tokens_per_micro_batch, packed=packed
        )
        count = int(all_max(float(max(1, len(batches)))))
        batches += [padding_batch(packed=packed)] * (count - len(batches))
        return [batch.to(self.device) for batch in batches]

    def weights(self) -> Mapping[str, torch.Tensor] | None:
        """All parameters by name for a rollout engine with its own copy, adapters merged into them;
        None where it can share `module`.
        """
        lora = self.config.lora
        if self.stage < 3 and not lora.rank:
            return None
        dtype = next(self.module.parameters()).dtype
        whole = full_parameters(self.engine, self.module)
        return {
            name: value.to(dtype) for name, value in (merged(whole, lora) if lora.rank else whole)
        }

    def whole_weights(self) -> Mapping[str, torch.Tensor]:
        """All parameters by name, whatever the ZeRO stage; at stages 0 to 2 the learner's own
        tensors.
        """
        weights = self.weights()
        return (
            {name: one.detach() for name, one in self.module.named_parameters()}
            if weights is None
            else weights
        )

    def blank_module(self) -> Any:
        """A model of the same shape, type and device with whole parameters of its own."""
        from transformers import AutoModelForCausalLM

        dtype = next(self.module.parameters()).dtype
        model = (
            AutoModelForCausalLM.from_config(self.module.config, dtype=dtype).to(self.device).eval()
        )
        model.generation_config = copy.deepcopy(self.module.generation_config)
        return model

    def export(self, directory: Path, tokenizer: TokenizerLike) -> None:
        """Write a plain model directory (safetensors, config, tokenizer), whole or not at all."""
        weights = self.weights()
        if rank() == 0:
            temporary = directory.with_name(f".{directory.name}.tmp")
            shutil.rmtree(temporary, ignore_errors=True)
            model = self.module
            if weights is not None:
                model = self.blank_module()
                unknown = model.load_state_dict(dict(weights), strict=False).unexpected_keys
                assert not unknown, unknown
            disable_progress_bar()
            model.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            shutil.rmtree(directory, ignore_errors=True)
            temporary.rename(directory)
        barrier()

    def export_adapter(self, directory: Path) -> None:
        """Write the adapters alone, as peft loads them. All processes call it."""
        # All parameters are gone through, for at ZeRO 3 that is work of all processes.
        parameters = [
            (name, value)
            for name, value in full_parameters(self.engine, self.module)
            if ".lora_" in name
        ]
        if rank() == 0:
            save_adapter(parameters, self.config.lora, self.config.model.path, directory)
        barrier()

    def _entropy(self) -> Literal["none", "logged", "trained"]:
        if self.config.kind != "rl":
            return "none"
        return "trained" if self.config.loss.entropy else "logged"

    def _wrapped(self, model: Any, temperature: float) -> nn.Module:
        return TrainedPositions(model, temperature, self._entropy())

    def _frozen(self, model: Any, temperature: float) -> TrainedPositions:
        return TrainedPositions(
            copy.deepcopy(model).eval().requires_grad_(False), temperature, "none"
        )


def _add(sums: dict[str, float], name: str, value: torch.Tensor) -> None:
    sums[name] = sums.get(name, 0.0) + float(value)
