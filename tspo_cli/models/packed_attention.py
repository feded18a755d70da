"""Attention over packed rows: several sequences one after the other in one row, each attending to
itself alone.

It is registered with transformers as an attention implementation, so that every model that uses the
attention interface can train on packed rows. Calls without `segments` (rollouts, padded batches)
are ordinary SDPA.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from tspo_cli.errors import InvalidInputError
from tspo_cli.models.full_attention import full_attention_problem

NAME = "tspo_packed"
_packed: ContextVar[bool] = ContextVar("packed", default=False)


@dataclass(frozen=True, slots=True)
class Segments:
    """The sequences of a packed row: their lengths in order, and where each begins and ends
    (running sums [n + 1], int32).
    """

    lengths: tuple[int, ...]
    boundaries: torch.Tensor

    @classmethod
    def of(cls, lengths: tuple[int, ...], device: torch.device) -> Segments:
        """Segments of these lengths."""
        sums = torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0).to(torch.int32)
        return cls(lengths, sums.to(device))


def enable_packing(model: Any, longest: int) -> None:
    """Make `model` accept `segments` in its forward pass.

    Raises:
        InvalidInputError: the model has its own kind of attention, or a sliding window shorter than
        `longest` tokens.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    problem = full_attention_problem(model, longest)
    if problem is None and not getattr(model, "_supports_attention_backend", True):
        problem = "an attention implementation of its own"
    if problem is not None:
        raise InvalidInputError(
            f"train.packing: {type(model).__name__} has {problem}; set train.packing to false"
        )
    AttentionInterface.register(NAME, packed_attention)
    AttentionMaskInterface.register(NAME, _mask)
    model.set_attn_implementation(NAME)


def forward_packed(
    base_model: Any, token_ids: torch.Tensor, positions: torch.Tensor, segments: Segments
) -> Any:
    """The output of a decoder that `enable_packing` prepared, for token_ids and positions [1,
    T].
    """
    token = _packed.set(True)
    try:
        return base_model(
            input_ids=token_ids, position_ids=positions, use_cache=False, segments=segments
        )
    finally:
        _packed.reset(token)


def _mask(*shape: Any, **options: Any) -> torch.Tensor | None:
    """No mask for a packed row: segments replace the T x T mask that transformers would build."""
    from transformers.masking_utils import sdpa_mask

    return None if _packed.get() else sdpa_mask(*shape, **options)


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    segments: Segments | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within each segment. query [1, H, T, D], key and value [1, H_kv, T, D];
    returns [1, T, H, D].
    """
    if segments is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        result, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return result, None
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16) and _varlen() is not None:
        return _flash(query, key, value, segments, scaling), None
    return _per_segment(query, key, value, segments, scaling, dropout), None


def _per_segment(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: Segments,
    scaling: float | None,
    dropout: float,
) -> torch.Tensor:
    """One causal SDPA per segment: no mask and no padding, on every device."""
    grouped = query.shape[1] != key.shape[1]
    lengths = list(segments.lengths)
    parts = [
        scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, scale=scaling, is_causal=True, enable_gqa=grouped
        )
        for q, k, v in zip(
            query.split(lengths, 2), key.split(lengths, 2), value.split(lengths, 2), strict=True
        )
    ]
    return torch.cat(parts, 2).transpose(1, 2)


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: Segments,
    scaling: float | None,
) -> torch.Tensor:
    """PyTorch's own variable-length kernel, all segments in one call.

    SDPA per segment would be slower: cuDNN prepares for every new length, which takes longer than
    the attention.
    """
    varlen, options = _varlen(), {}
    groups = query.shape[1] // key.shape[1]
    if "enable_gqa" in signature(varlen).parameters:
        options = {"enable_gqa": groups > 1}
    elif groups > 1:  # torch 2.11
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    longest = max(segments.lengths)
    bounds = (segments.boundaries, segments.boundaries, longest, longest)
    return varlen(q, k, v, *bounds, scale=scaling, window_size=(-1, 0), **options)[None]


def _varlen() -> Any:
    """`varlen_attn` if this torch has it with the window_size option (2.11), else None."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if "window_size" in signature(varlen_attn).parameters else None
