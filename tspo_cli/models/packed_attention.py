"""Attention over packed rows: several sequences one after the other in one row, each attending to
itself alone.

It is registered with transformers as an attention implementation, so that every model that uses the
attention interface can train on packed rows. Calls without `segments` (rollouts, padded batches)
are ordinary SDPA. What SDPA cannot do (soft-caps, attention sinks, whatever else a model hands to
its attention) is left to the model's own function.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from inspect import signature
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from tspo_cli.errors import InvalidInputError
from tspo_cli.models.attention_kinds import attention_problem

NAME = "tspo_packed"
_packed: ContextVar[bool] = ContextVar("packed", default=False)

# Arguments that change nothing in the attention of a causal model.
_WITHOUT_EFFECT = {
    "cache_position",
    "is_causal",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "position_ids",
    "return_dict",
    "use_cache",
}
_WINDOW = "sliding_window"
_IN_MASK = -1
"""The window of a layer that hands over no argument for it."""


Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Segments:
    """The sequences of a packed row: their lengths in order, and where each begins and ends
    (running sums [n + 1], int32).

    A segment may continue earlier tokens of the row. `prefixes` has, for each segment, the ranges
    (start, end) of the row that it continues, in order; it is empty where no segment does.
    """

    lengths: tuple[int, ...]
    boundaries: torch.Tensor
    prefixes: tuple[Ranges, ...] = ()

    @classmethod
    def of(
        cls, lengths: tuple[int, ...], device: torch.device, prefixes: tuple[Ranges, ...] = ()
    ) -> Segments:
        """Segments of these lengths."""
        sums = torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0).to(torch.int32)
        return cls(lengths, sums.to(device), prefixes if any(prefixes) else ())


def enable_packing(model: Any) -> None:
    """Make `model` accept `segments` in its forward pass.

    Raises:
        InvalidInputError: the model has its own kind of attention.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    problem = attention_problem(model)
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

    Raises:
        InvalidInputError: the model hands over an argument that neither SDPA nor a function of its
        own takes, or does not hand over `segments`.
    """
    if segments is None and _packed.get():
        raise InvalidInputError(
            f"train.packing: the layers around {type(module).__name__} do not hand their keyword "
            "arguments on to it, so it cannot tell the sequences of a packed row apart; set "
            "train.packing to false"
        )
    window = _window_of(module, options.pop(_WINDOW, _IN_MASK))
    extras = {
        name: value
        for name, value in options.items()
        if value is not None and name not in _WITHOUT_EFFECT
    }
    if extras:
        own = _OwnAttention(module, scaling, dropout, {**extras, _WINDOW: window})
        if segments is None:
            return own(query, key, value, _added_mask(attention_mask, query, key)), None
        return _per_segment(query, key, value, segments, window, own), None
    if segments is None:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        result, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **options
        )
        return result, None
    flash = query.is_cuda and query.dtype in (torch.float16, torch.bfloat16)
    if flash and not segments.prefixes and _varlen() is not None:
        return _flash(query, key, value, segments, scaling, window), None
    return _per_segment(query, key, value, segments, window, _Sdpa(scaling, dropout)), None


def _window_of(module: Any, option: int | None) -> int | None:
    """The window of a layer. Its size is that of the configuration, from which transformers makes
    the masks of other implementations. A layer that hands over no argument for it (Phi-MoE) has
    the window in its mask alone: all layers do, where the configuration does not list their kinds.
    """
    config = getattr(module, "config", None)
    if option is None or (option == _IN_MASK and getattr(config, "layer_types", None)):
        return None
    window: int | None = getattr(config, _WINDOW, None) or (None if option == _IN_MASK else option)
    return window


@dataclass(frozen=True, slots=True)
class _Sdpa:
    """PyTorch's attention of one segment; without a mask it is causal. Returns [1, T, H, D]."""

    scaling: float | None
    dropout: float

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        return scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            dropout_p=self.dropout,
            scale=self.scaling,
            is_causal=mask is None,
            enable_gqa=q.shape[1] != k.shape[1],
        ).transpose(1, 2)


@dataclass(frozen=True, slots=True)
class _OwnAttention:
    """The attention function in the file of the model, with all arguments of the model."""

    module: torch.nn.Module
    scaling: float | None
    dropout: float
    options: dict[str, Any]

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        file = sys.modules[type(self.module).__module__]
        attention: Any = getattr(file, "eager_attention_forward", None)
        if attention is None:
            names = ", ".join(sorted(self.options.keys() - {_WINDOW}))
            raise InvalidInputError(
                f"{type(self.module).__name__} has an attention with {names}, which cannot be "
                "computed on packed rows; set train.packing to false"
            )
        mask = _added_mask(mask, q, k)
        options = {"scaling": self.scaling, "dropout": self.dropout, **self.options}
        result: torch.Tensor = attention(self.module, q, k, v, mask, **options)[0]
        return result


def _added_mask(mask: torch.Tensor | None, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """The mask as numbers that are added to the scores. None is causal."""
    if mask is None:
        mask = _causal(query.shape[2], key.shape[2], None, query.device)
    if mask.dtype != torch.bool:
        return mask
    zeros = torch.zeros(mask.shape, dtype=query.dtype, device=query.device)
    return zeros.masked_fill(~mask, torch.finfo(query.dtype).min)


def _causal(queries: int, keys: int, window: int | None, device: torch.device) -> torch.Tensor:
    """True where one of the last `queries` positions sees one of `keys`, [1, 1, queries, keys]."""
    position = torch.arange(keys - queries, keys, device=device)[:, None]
    distance = position - torch.arange(keys, device=device)
    visible = distance >= 0
    return (visible if window is None else visible & (distance < window))[None, None]


def _per_segment(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: Segments,
    window: int | None,
    attention: Callable[..., torch.Tensor],
) -> torch.Tensor:
    """One causal attention per segment: no padding, on every device, and a mask only where a
    segment continues a prefix or is longer than the window.
    """
    queries = query.split(list(segments.lengths), 2)
    parts = []
    for q, k, v in zip(
        queries, _with_prefixes(key, segments), _with_prefixes(value, segments), strict=True
    ):
        continues = k.shape[2] > q.shape[2]
        masked = continues or (window is not None and q.shape[2] > window)
        mask = _causal(q.shape[2], k.shape[2], window, q.device) if masked else None
        parts.append(attention(q, k, v, mask))
    return torch.cat(parts, 1)


def _with_prefixes(states: torch.Tensor, segments: Segments) -> list[torch.Tensor]:
    """Keys or values [1, H, T, D] of each segment, with those of its prefix before them."""
    if not segments.prefixes:
        return list(states.split(list(segments.lengths), 2))
    bounds = [0, *accumulate(segments.lengths)]
    read = [(*prefix, own) for prefix, own in zip(segments.prefixes, pairwise(bounds), strict=True)]
    # Split once, where any range begins or ends: gradients of slices would each fill a whole row.
    cuts = sorted({edge for ranges in read for piece in ranges for edge in piece})
    pieces = states.split([end - start for start, end in pairwise(cuts)], 2)
    number = {cut: index for index, cut in enumerate(cuts)}
    return [
        torch.cat(
            [part for start, end in ranges for part in pieces[number[start] : number[end]]], 2
        )
        for ranges in read
    ]


def _flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    segments: Segments,
    scaling: float | None,
    window: int | None,
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
    back = -1 if window is None else window - 1
    return varlen(q, k, v, *bounds, scale=scaling, window_size=(back, 0), **options)[None]


def _varlen() -> Any:
    """`varlen_attn` if this torch has it with the window_size option (2.11), else None."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn if "window_size" in signature(varlen_attn).parameters else None
