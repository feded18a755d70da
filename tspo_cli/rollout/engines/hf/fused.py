"""A faster forward pass of Qwen2 and Llama models on a CPU, with fewer and larger operations.

A decoding step of a tiny policy spends more time between operations than in them. Here the
projections of one input are joined to one matrix, and a prefill computes its last layer for the
last token only. A decoding step of a large one reads every weight for a few rows; its matrices lie
in the order in which oneDNN reads them (`packed_linear`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional

from tspo_cli.models.checks.model_size import is_large_on_cpu
from tspo_cli.models.dtype import has_bfloat16
from tspo_cli.rollout.engines.hf.kv_cache import SlotCache
from tspo_cli.rollout.engines.hf.products import (
    Product,
    can_pack,
    packed_head,
    packed_linear,
    plain_linear,
)

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MODEL_CLASSES = ("Qwen2ForCausalLM", "LlamaForCausalLM")
# Rotary embeddings whose frequencies do not depend on the length of the sequence.
ROPE_TYPES = ("default", "linear", "llama3")

# Most numbers of an attention that is computed at once, 64 MiB in bfloat16.
MOST_SCORES = 2**25


def can_fuse(model: PreTrainedModel) -> bool:
    """Whether `FusedForward` supports the model: on a CPU, of a known class and shape; a large one
    in a data type that this CPU multiplies (`can_pack`).
    """
    config: Any = model.config
    return (
        type(model).__name__ in MODEL_CLASSES
        and model.device.type == "cpu"
        and config.hidden_act == "silu"
        and not getattr(config, "mlp_bias", False)
        and config.rope_parameters["rope_type"] in ROPE_TYPES
        and all(
            type(part) is nn.Linear for layer in model.model.layers for part in _projections(layer)
        )
        and (not is_large_on_cpu(model) or can_pack(model.dtype))
    )


@dataclass(frozen=True, slots=True)
class _Layer:
    """Weights of one layer and its products, of which `qkv` gives [(heads + 2 kv_heads) head_dim]
    values a token, `gate_up` [2 intermediate].
    """

    input_norm: torch.Tensor
    qkv: Product
    output: Product
    norm: torch.Tensor
    gate_up: Product
    down: Product


class FusedForward:
    """The forward pass over the slots that the cache has selected. Call `refresh` when the weights
    have changed.

    Args:
        model: one for which `can_fuse` is true.
        cache: stores keys and values.
        max_context: most tokens of a sequence.
    """

    @torch.no_grad()
    def __init__(self, model: PreTrainedModel, cache: SlotCache, max_context: int) -> None:
        config: Any = model.config
        self.model: Any = model
        self.cache = cache
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        self.epsilon = config.rms_norm_eps
        self.multiplies_bfloat16 = model.dtype == torch.bfloat16 and has_bfloat16()
        self.product = packed_linear if is_large_on_cpu(model) else plain_linear
        positions = torch.arange(max_context)[None]
        cos, sin = self.model.model.rotary_emb(model.get_input_embeddings().weight, positions)
        # A rotation swaps the halves of a head and negates one of them: `sin` contains the sign.
        sign = torch.ones(self.head_dim, dtype=sin.dtype)
        sign[: self.head_dim // 2] = -1
        self.cos, self.sin = cos[0, :, None], (sin[0] * sign)[:, None]
        self.refresh()

    def refresh(self) -> None:
        """Join the projections from the model's present weights."""
        self.layers = list[_Layer]()  # the old ones are dropped before the new ones are made
        for layer in self.model.model.layers:
            self.layers.append(_join(layer, self.product))
        head = self.model.lm_head
        self.head = packed_head(head) if self.product is packed_linear else head
        self.embedding = self.model.model.embed_tokens.weight
        self.final_norm = self.model.model.norm.weight

    def __call__(
        self, tokens: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Logits [rows, vocabulary] of the last column.

        Args:
            tokens: ids [rows, width].
            positions: [rows, width].
            mask: added to the scores, [rows, 1, width, columns of the cache's window].
        """
        rows, width = tokens.shape
        x = functional.embedding(tokens, self.embedding).view(rows * width, -1)
        cos, sin = self.cos[positions.view(-1)], self.sin[positions.view(-1)]
        for number, layer in enumerate(self.layers):
            query, keys, values = self._project(number, layer, x, cos, sin, rows)
            if number == len(self.layers) - 1 and width > 1:
                x, query, mask = x.view(rows, width, -1)[:, -1], query[:, :, -1:], mask[:, :, -1:]
            x = self._finish(layer, x, self._attend(query, keys, values, mask))
        logits: torch.Tensor = self.head(self._norm(x, self.final_norm))
        return logits

    def _project(
        self,
        number: int,
        layer: _Layer,
        x: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        rows: int,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries [rows, heads, width, head_dim]; keys and values [rows, kv_heads, columns,
        head_dim].
        """
        joined = layer.qkv(self._norm(x, layer.input_norm))
        joined = joined.view(len(x), self.heads + 2 * self.kv_heads, self.head_dim)
        rotated = joined[:, : self.heads + self.kv_heads]
        swapped = rotated.unflatten(-1, (2, -1)).flip(-2).flatten(-2)
        rotated = (
            torch.addcmul(rotated * cos, swapped, sin).unflatten(0, (rows, -1)).transpose(1, 2)
        )
        value = joined[:, self.heads + self.kv_heads :].unflatten(0, (rows, -1)).transpose(1, 2)
        keys, values = self.cache.slot_layers[number].update(rotated[:, self.heads :], value)
        return rotated[:, : self.heads], keys, values

    def _attend(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor
    ) -> torch.Tensor:
        """Attention [rows x width, heads x head_dim]."""
        rows, heads, width, size = query.shape
        columns = keys.shape[2]
        if self.multiplies_bfloat16 and rows * heads * width * columns <= MOST_SCORES:
            attended = bfloat16_attention(query, keys, values, mask)
        elif width == 1:
            # Heads that share keys become the queries of one attention.
            grouped = query.reshape(rows, self.kv_heads, heads // self.kv_heads, size)
            attended = functional.scaled_dot_product_attention(
                grouped, keys, values, attn_mask=mask
            )
            return attended.reshape(rows, -1)
        else:
            attended = functional.scaled_dot_product_attention(
                query, keys, values, attn_mask=mask, enable_gqa=heads != self.kv_heads
            )
        return attended.transpose(1, 2).reshape(rows * width, heads * size)

    def _finish(self, layer: _Layer, x: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        x = x + layer.output(attended)
        gate, up = layer.gate_up(self._norm(x, layer.norm)).chunk(2, dim=-1)
        return x + layer.down(functional.silu(gate).mul_(up))

    def _norm(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return functional.rms_norm(x, (x.shape[-1],), weight, self.epsilon)


def bfloat16_attention(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """Attention [rows, heads, width, d] of bfloat16 queries of this shape to keys and values [rows,
    kv_heads, columns, d]. `mask` [rows, 1, width, columns] is added to the scores, which are
    rounded to bfloat16 and kept at once, as in transformers' eager attention.

    PyTorch's own works in float32 for the most part, which takes nearly twice as long.
    """
    rows, heads, width, size = query.shape
    keys, values = keys.contiguous(), values.contiguous()  # a product copies others in slower ways
    grouped = (query * size**-0.5).reshape(rows, keys.shape[1], -1, size)
    scores = grouped @ keys.transpose(-1, -2)
    weights = scores.view(rows, heads, width, -1).add_(mask).softmax(-1)
    return (weights.view(scores.shape) @ values).view(rows, heads, width, size)


def _projections(layer: Any) -> Iterator[nn.Module]:
    """The projections whose weights are read. Adapters in their place would be ignored."""
    attention, mlp = layer.self_attn, layer.mlp
    yield from (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
    yield from (mlp.gate_proj, mlp.up_proj, mlp.down_proj)


def _join(layer: Any, product: Callable[[torch.Tensor, torch.Tensor | None], Product]) -> _Layer:
    attention, mlp = layer.self_attn, layer.mlp
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    biases = [projection.bias for projection in projections]
    return _Layer(
        input_norm=layer.input_layernorm.weight,
        qkv=product(
            torch.cat([projection.weight for projection in projections]),
            None if biases[0] is None else torch.cat(biases),
        ),
        output=product(attention.o_proj.weight, attention.o_proj.bias),
        norm=layer.post_attention_layernorm.weight,
        gate_up=product(torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]), None),
        down=product(mlp.down_proj.weight, None),
    )
